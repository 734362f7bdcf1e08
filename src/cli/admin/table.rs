//! Columns of text: as wide as what is in them, and cut to fit a terminal.

/// A table under construction.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

/// A column.
#[derive(Copy, Clone, Debug)]
pub struct Column {
    name: &'static str,
    right: bool,
    /// It may be cut.
    flexible: bool,
}

/// One text in it.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    colour: Option<Colour>,
}

/// Of a terminal.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Colour {
    /// All is well.
    Green,
    /// It was asked for.
    Yellow,
    /// It is not well.
    Red,
}

/// A column of names: to the left, and cut where there is no room.
pub const fn names(name: &'static str) -> Column {
    Column { name, right: false, flexible: true }
}

/// A column of words: to the left.
pub const fn words(name: &'static str) -> Column {
    Column { name, right: false, flexible: false }
}

/// A column of numbers: to the right.
pub const fn numbers(name: &'static str) -> Column {
    Column { name, right: true, flexible: false }
}

/// The narrowest that a column is cut to.
const NARROW: usize = 8;

impl Table {
    /// A table without rows.
    pub fn new(columns: &[Column]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// One row more; as many cells as there are columns.
    pub fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        debug_assert_eq!(N, self.columns.len());
        self.rows.push(cells.into());
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text: no line longer than `width`, unless what may not be cut is. With `coloured`, escape sequences colour it.
    pub fn render(&self, width: Option<usize>, coloured: bool) -> String {
        let widths = self.widths(width);
        let mut text = String::new();
        let header: Vec<Cell> = self.columns.iter().map(|column| Cell::from(column.name)).collect();
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, column), width) in row.iter().zip(&self.columns).zip(&widths) {
                if !line.is_empty() {
                    line.push_str("  ");
                }
                line.push_str(&cell.render(*column, *width, coloured));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn widths(&self, most: Option<usize>) -> Vec<usize> {
        let cells = |index: usize| self.rows.iter().map(move |row| row[index].text.chars().count());
        let mut widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, column)| cells(index).max().unwrap_or(0).max(column.name.len()))
            .collect();
        let Some(most) = most else { return widths };
        let gaps = 2 * self.columns.len().saturating_sub(1);
        // The widest gives way first.
        while widths.iter().sum::<usize>() + gaps > most {
            let flexible = (0..widths.len()).filter(|index| self.columns[*index].flexible && widths[*index] > NARROW);
            let Some(widest) = flexible.max_by_key(|index| widths[*index]) else { break };
            widths[widest] -= 1;
        }
        widths
    }
}

impl Cell {
    /// The same in a colour.
    pub fn coloured(self, colour: Colour) -> Cell {
        Cell { colour: Some(colour), ..self }
    }

    fn render(&self, column: Column, width: usize, coloured: bool) -> String {
        let count = self.text.chars().count();
        let text: String = match count > width {
            true => self.text.chars().take(width.saturating_sub(1)).chain(['~']).collect(),
            false => self.text.clone(),
        };
        let padding = " ".repeat(width.saturating_sub(count));
        let text = match self.colour.filter(|_| coloured) {
            Some(colour) => format!("{}{text}\x1b[0m", colour.escape()),
            None => text,
        };
        if column.right { format!("{padding}{text}") } else { format!("{text}{padding}") }
    }
}

impl Colour {
    const fn escape(self) -> &'static str {
        match self {
            Colour::Green => "\x1b[32m",
            Colour::Yellow => "\x1b[33m",
            Colour::Red => "\x1b[31m",
        }
    }
}

impl<T: ToString> From<T> for Cell {
    /// Control characters would be obeyed by a terminal.
    fn from(text: T) -> Cell {
        let text = text.to_string().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        Cell { text, colour: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[names("NAME"), words("STATUS"), numbers("ACTIVE")]);
        table.row(["a".into(), Cell::from("ready").coloured(Colour::Green), 7.into()]);
        table.row(["a-rather-long-name-of-a-backend".into(), "ejected".into(), 12345.into()]);
        table
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let text = table().render(None, false);
        let expected = "NAME                             STATUS   ACTIVE\n\
                        a                                ready         7\n\
                        a-rather-long-name-of-a-backend  ejected   12345\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn names_are_cut_to_fit_and_nothing_else_is() {
        for width in [20, 30, 40] {
            let text = table().render(Some(width), false);
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= width.max(NARROW + 2 + 7 + 2 + 6), "{width}: {text}");
            assert!(text.contains("ejected   12345"), "{text}");
            assert!(text.contains("a-rathe") && text.contains('~'), "{text}");
        }
    }

    #[test]
    fn colours_change_no_width() {
        let (plain, coloured) = (table().render(None, false), table().render(None, true));
        assert_eq!(coloured.replace("\x1b[32m", "").replace("\x1b[0m", ""), plain);
        assert!(coloured.contains("\x1b[32mready\x1b[0m"));
    }
}
