//! Tables for the terminal: text, aligned by column.

/// A table: names left, figures right.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(headings: impl IntoIterator<Item = String>) -> Table {
        Table { rows: vec![headings.into_iter().collect()] }
    }

    /// Adds a row; it may be shorter than the others.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The whole text, a line a row, without trailing spaces.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell_width = |row: &Vec<String>, column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
        let widths: Vec<usize> =
            (0..columns).map(|column| self.rows.iter().map(|row| cell_width(row, column)).max().unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                if column == 0 {
                    line.push_str(&format!("{cell:<width$}"));
                } else {
                    line.push_str(&format!("  {cell:>width$}"));
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A figure with as many digits as are worth reading: three, and none after the point above a thousand.
pub fn figure(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 100.0 {
        format!("{value:.0}")
    } else if magnitude >= 10.0 {
        format!("{value:.1}")
    } else if magnitude == 0.0 {
        "0".to_owned()
    } else if magnitude >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["peer", "op/s", "µs"].map(str::to_owned));
        table.row(["nginx", "98765", "8.21"].map(str::to_owned));
        table.row(["a longer name", "7"].map(str::to_owned));
        let expected = "peer            op/s    µs\nnginx          98765  8.21\na longer name      7\n";
        assert_eq!(table.render(), expected);
    }

    #[test]
    fn figures_are_short() {
        let shown: Vec<String> = [0.0, 0.3449, 8.214, 33.33, 123_456.7].map(figure).into();
        assert_eq!(shown, ["0", "0.345", "8.21", "33.3", "123457"]);
    }
}
