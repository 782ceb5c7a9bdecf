//! Lines of styled text, and tables made of them. Pure.

use std::cmp::Ordering;

/// How a piece of text looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Bold,
    Dim,
    /// The head of a table.
    Head,
    /// What to look at.
    Warn,
    /// What is wrong.
    Bad,
}

impl Style {
    /// What a terminal is told.
    fn code(self) -> &'static str {
        match self {
            Style::Plain => "",
            Style::Bold => "\x1b[1m",
            Style::Dim => "\x1b[2m",
            Style::Head => "\x1b[7m",
            Style::Warn => "\x1b[33m",
            Style::Bad => "\x1b[1;31m",
        }
    }
}

/// A line: pieces of text, each in its style.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line(Vec<(Style, String)>);

impl Line {
    /// A line in one style.
    pub(super) fn new(style: Style, text: impl Into<String>) -> Line {
        Line(vec![(style, text.into())])
    }

    /// Appends a piece.
    pub(super) fn and(mut self, style: Style, text: impl Into<String>) -> Line {
        self.0.push((style, text.into()));
        self
    }

    /// Without its styles.
    pub(super) fn plain(&self) -> String {
        let pieces: Vec<&str> = self.0.iter().map(|(_, text)| text.as_str()).collect();
        pieces.concat().trim_end().to_owned()
    }

    /// For a terminal, cut to its width.
    pub(super) fn to_terminal(&self, width: usize, colours: bool) -> String {
        let mut out = String::new();
        let mut left = width;
        for (style, text) in &self.0 {
            let cut: String = text.chars().take(left).collect();
            if cut.is_empty() {
                continue;
            }
            left -= cut.chars().count();
            let code = match style {
                // These say something without a colour, too.
                Style::Head | Style::Bold => style.code(),
                _ if colours => style.code(),
                _ => "",
            };
            out.push_str(code);
            out.push_str(&cut);
            if !code.is_empty() {
                out.push_str("\x1b[0m");
            }
        }
        out
    }
}

/// What a cell is sorted by.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum By {
    Number(f64),
    Text(String),
}

/// A cell.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) by: By,
    pub(super) style: Style,
}

impl Cell {
    /// A word.
    pub(super) fn text(text: impl Into<String>) -> Cell {
        let text = text.into();
        Cell {
            by: By::Text(text.clone()),
            text,
            style: Style::Plain,
        }
    }

    /// A number, as it is written.
    pub(super) fn number(number: f64, text: impl Into<String>) -> Cell {
        Cell {
            text: text.into(),
            by: By::Number(number),
            style: Style::Plain,
        }
    }

    /// A count.
    pub(super) fn count(number: u64) -> Cell {
        Cell::number(number as f64, number.to_string())
    }

    /// Nobody knows: behind everything.
    pub(super) fn unknown() -> Cell {
        Cell::number(-1.0, "-").in_style(Style::Dim)
    }

    pub(super) fn in_style(mut self, style: Style) -> Cell {
        self.style = style;
        self
    }

    fn order(&self, other: &Cell) -> Ordering {
        match (&self.by, &other.by) {
            (By::Number(a), By::Number(b)) => a.total_cmp(b),
            (By::Text(a), By::Text(b)) => a.cmp(b),
            (By::Number(_), By::Text(_)) => Ordering::Less,
            (By::Text(_), By::Number(_)) => Ordering::Greater,
        }
    }
}

/// A column's title; numbers stand to the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) is_number: bool,
}

/// A table.
pub(super) struct Table {
    pub(super) columns: &'static [Column],
    pub(super) rows: Vec<Vec<Cell>>,
}

/// The most that a column takes which is not the last.
const COLUMN_MAX: usize = 32;

impl Table {
    /// Leaves only the rows that have a text in them, whatever the letters' case.
    pub(super) fn filter(&mut self, text: &str) {
        let wanted = text.to_lowercase();
        self.rows.retain(|row| {
            let mut cells = row.iter();
            wanted.is_empty() || cells.any(|cell| cell.text.to_lowercase().contains(&wanted))
        });
    }

    /// Sorts the rows; where two are the same, by the first column.
    pub(super) fn sort(&mut self, column: usize, descending: bool) {
        let by = |at: usize, a: &[Cell], b: &[Cell]| match (a.get(at), b.get(at)) {
            (Some(a), Some(b)) => a.order(b),
            _ => Ordering::Equal,
        };
        self.rows.sort_by(|a, b| {
            let order = by(column, a, b);
            let order = if descending { order.reverse() } else { order };
            order.then_with(|| by(0, a, b))
        });
    }

    /// The head and the rows from one on, at most so many lines; `sorted`: the column whose title is marked, and how.
    pub(super) fn lines(&self, from: usize, most: usize, sorted: (usize, bool)) -> Vec<Line> {
        let shown = || self.rows.iter().skip(from).take(most.saturating_sub(1));
        let last = self.columns.len().saturating_sub(1);
        let title = |at: usize, column: &Column| match sorted {
            (by, true) if by == at => format!("{}▼", column.title),
            (by, false) if by == at => format!("{}▲", column.title),
            _ => column.title.to_owned(),
        };
        let titles: Vec<String> = (0..)
            .zip(self.columns)
            .map(|(at, column)| title(at, column))
            .collect();
        // Wide enough for all rows, also for those out of sight: nothing jumps when one scrolls.
        let width = |at: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(at));
            let widest = cells
                .map(|cell| cell.text.chars().count())
                .max()
                .unwrap_or(0);
            // A title with its mark, whether it has one or not.
            let title = self
                .columns
                .get(at)
                .map_or(0, |column| column.title.chars().count() + 1);
            widest
                .max(title)
                .min(if at == last { usize::MAX } else { COLUMN_MAX })
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let placed = |at: usize, text: &str| {
            let width = widths.get(at).copied().unwrap_or(0);
            let text = cut(text, width);
            let is_number = self.columns.get(at).is_some_and(|column| column.is_number);
            match is_number {
                true => format!("{text:>width$}  "),
                false => format!("{text:<width$}  "),
            }
        };
        let head: Vec<String> = titles
            .iter()
            .enumerate()
            .map(|(at, title)| placed(at, title))
            .collect();
        let mut lines = vec![Line::new(Style::Head, head.concat())];
        lines.extend(shown().map(|row| {
            let cells = row.iter().enumerate();
            cells.fold(Line::default(), |line, (at, cell)| {
                line.and(cell.style, placed(at, &cell.text))
            })
        }));
        lines.truncate(most);
        lines
    }
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let short: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{short}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[
        Column {
            title: "NAME",
            is_number: false,
        },
        Column {
            title: "N",
            is_number: true,
        },
        Column {
            title: "WHY",
            is_number: false,
        },
    ];

    fn table() -> Table {
        let row =
            |name: &str, n, why: &str| vec![Cell::text(name), Cell::count(n), Cell::text(why)];
        Table {
            columns: COLUMNS,
            rows: vec![row("b", 9, "x"), row("a", 10, "yes"), row("c", 10, "no")],
        }
    }

    fn text(lines: &[Line]) -> String {
        lines.iter().map(Line::plain).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn numbers_stand_right_and_the_sorted_column_is_marked() {
        let mut table = table();
        table.sort(1, true);
        let lines = table.lines(0, 10, (1, true));
        assert_eq!(
            text(&lines),
            "NAME   N▼  WHY\na      10  yes\nc      10  no\nb       9  x"
        );
    }

    #[test]
    fn rows_are_cut_scrolled_and_filtered() {
        let mut table = table();
        assert_eq!(
            text(&table.lines(1, 2, (9, true))),
            "NAME    N  WHY\na      10  yes"
        );
        assert_eq!(table.lines(0, 0, (0, true)).len(), 0);
        table.filter("YES");
        assert_eq!(table.rows.len(), 1);
        table.rows[0][0] = Cell::text("x".repeat(99));
        let line = table.lines(0, 9, (0, true))[1].plain();
        assert!(
            line.contains(&format!("{}…  10  yes", "x".repeat(31))),
            "{line}"
        );
    }

    #[test]
    fn a_line_is_cut_by_letters_not_by_bytes_and_its_styles_end() {
        let line = Line::new(Style::Bad, "äöü")
            .and(Style::Plain, "€uro")
            .and(Style::Dim, "gone");
        assert_eq!(line.to_terminal(5, true), "\x1b[1;31mäöü\x1b[0m€u");
        assert_eq!(line.to_terminal(5, false), "äöü€u");
        assert_eq!(line.to_terminal(0, false), "");
        assert_eq!(
            Line::new(Style::Head, "x").to_terminal(9, false),
            "\x1b[7mx\x1b[0m"
        );
    }
}
