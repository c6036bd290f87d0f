//! Text in columns, for people and for `awk`: two spaces or more between them, nothing after the
//! last. Pure.

use unicode_width::UnicodeWidthStr as _;

/// What stands for the rest of a cell that was cut.
const ELLIPSIS: char = '…';

/// No column is cut to less than this.
const NARROWEST: usize = 4;

/// Between two columns.
const GAP: &str = "  ";

/// Rows, below a heading or not.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings and no row.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        Self {
            rows: vec![headings.iter().map(ToString::to_string).collect()],
        }
    }

    /// A table without headings.
    #[must_use]
    pub fn plain() -> Self {
        Self::default()
    }

    /// Adds a row; an empty cell shows as `-`, so that columns can be counted.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into_iter().map(cell).collect());
    }

    /// Adds a row of as many cells as there are columns.
    pub fn row_of(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(cell).collect());
    }

    /// The table as text, every line with its newline.
    #[must_use]
    pub fn render(&self) -> String {
        self.fit(None)
    }

    /// The table, no line wider than a terminal of so many columns if that can be: the widest
    /// column is cut first.
    #[must_use]
    pub fn fit(&self, terminal: Option<usize>) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.width()).max().unwrap_or(0)
            })
            .collect();
        if let Some(terminal) = terminal {
            shrink(
                &mut widths,
                terminal.saturating_sub(GAP.len() * columns.saturating_sub(1)),
            );
        }
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let cell = cut(cell, *width);
                line.push_str(&cell);
                line.push_str(&" ".repeat(width.saturating_sub(cell.width())));
                line.push_str(GAP);
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Takes from the widest columns until they fit; of equal ones the last gives first.
fn shrink(widths: &mut [usize], room: usize) {
    while widths.iter().sum::<usize>() > room {
        match widths.iter_mut().max_by_key(|width| **width) {
            Some(width) if *width > NARROWEST => *width -= 1,
            _ => return,
        }
    }
}

/// A text in so many columns of a terminal, with an ellipsis for what doesn't fit.
#[must_use]
pub fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut short = String::new();
    for c in text.chars() {
        short.push(c);
        // Of the whole, for a character can change the width of the one before it.
        if short.width() >= columns {
            short.pop();
            break;
        }
    }
    short.push(ELLIPSIS);
    short
}

/// One cell's text: never empty, never more than a line, no control characters for the terminal.
fn cell(text: String) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["A", "LONGER", "C"]);
        table.row(["one".into(), String::new(), "x\n\u{1b}[31my".into()]);
        assert_eq!(table.render(), "A    LONGER  C\none  -       x  [31my\n");
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let mut table = Table::plain();
        table.row(["日本".into(), "x".into()]);
        table.row(["Zürich".into(), "y".into()]);
        assert_eq!(table.render(), "日本    x\nZürich  y\n");
    }

    #[test]
    fn the_widest_column_is_cut() {
        let mut table = Table::plain();
        table.row(["v10".into(), "ada deployed 0123456".into()]);
        table.row(["v9".into(), "日本日本日本日本日本".into()]);
        assert_eq!(table.fit(Some(16)), "v10  ada deploy…\nv9   日本日本日…\n");
        assert_eq!(table.fit(Some(80)), table.render());
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_terminal(
            rows in prop::collection::vec(("\\PC*", "\\PC*", "\\PC*"), 0..5),
            terminal in 17usize..200,
        ) {
            let mut table = Table::plain();
            for (a, b, c) in rows {
                table.row([a, b, c]);
            }
            for line in table.fit(Some(terminal)).lines() {
                prop_assert!(line.width() <= terminal, "{line:?}");
            }
        }
    }
}
