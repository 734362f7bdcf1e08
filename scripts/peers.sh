# Read by the scripts beside it: looks for the proxies that ringlb is compared with, sets `peers` to those that are
# there, and `nginx` and `haproxy` to their programs. What is missing is said and left out.

peers=ringlb
# nginx often lies in sbin, which only root has in its path.
nginx=$(PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v nginx || true)
haproxy=$(PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v haproxy || true)
if [ -n "$nginx" ]; then
    peers=$peers,nginx
else
    echo "nginx is missing and left out (Debian, Ubuntu: apt install nginx-light libnginx-mod-stream)" >&2
fi
if [ -n "$haproxy" ]; then
    peers=$peers,haproxy
else
    echo "HAProxy is missing and left out (Debian, Ubuntu: apt install haproxy)" >&2
fi
