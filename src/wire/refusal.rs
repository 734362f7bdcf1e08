//! What a client is told in words that nobody serves.

/// A complete HTTP response, which needs no request. It is the same for every method and version: a client of HTTP/1.0
/// understands it too, and one that has sent `HEAD` finds the end of the stream behind a body that it skips.
pub const HTTP_503: &str = "HTTP/1.1 503 Service Unavailable\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 58\r\n\
    Cache-Control: no-store\r\n\
    Connection: close\r\n\
    \r\n\
    503 Service Unavailable: no server can take this request.\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_response_is_as_long_as_it_says() {
        let (header, body) = HTTP_503.split_once("\r\n\r\n").expect("an end of the header");
        assert!(header.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "the body has {}", body.len());
        assert!(header.lines().all(|line| !line.starts_with(' ')), "a header that is folded");
    }
}
