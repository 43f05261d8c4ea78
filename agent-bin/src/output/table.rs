//! Tables of plain text.

/// A table: columns as wide as they need to be, two spaces apart.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// One cell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    /// The text.
    pub(crate) text: String,
    /// Its colour, where colours are written.
    pub(crate) style: Style,
}

/// How a cell stands out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Style {
    /// Not at all.
    #[default]
    Plain,
    /// All is well.
    Good,
    /// Something is under way.
    Busy,
    /// Something is wrong.
    Bad,
    /// Of little weight.
    Faint,
}

impl Style {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "\x1b[32m",
            Self::Busy => "\x1b[33m",
            Self::Bad => "\x1b[31m",
            Self::Faint => "\x1b[2m",
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self {
            text: text.into(),
            style: Style::Plain,
        }
    }
}

impl Cell {
    /// A cell that stands out.
    pub(crate) fn styled(text: impl Into<String>, style: Style) -> Self {
        Self {
            text: text.into(),
            style,
        }
    }
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Self {
            header: header.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The text, with colours or without. The last column is not filled up.
    pub(crate) fn render(&self, colours: bool) -> String {
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                let widest = cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0);
                widest.max(self.header[column].len())
            })
            .collect();
        let mut text = String::new();
        let header: Vec<Cell> = self
            .header
            .iter()
            .map(|name| Cell::styled(*name, Style::Faint))
            .collect();
        for row in std::iter::once(&header).chain(&self.rows) {
            for (column, cell) in row.iter().enumerate() {
                let clean = crate::failure::printable(&cell.text).replace(['\n', '\t'], " ");
                let last = column + 1 == row.len();
                let padding = if last {
                    0
                } else {
                    widths[column] + 2 - clean.chars().count()
                };
                let code = if colours { cell.style.code() } else { "" };
                let end = if code.is_empty() { "" } else { "\x1b[0m" };
                text += code;
                text += &clean;
                text += end;
                text.extend(std::iter::repeat_n(' ', padding));
            }
            let trimmed = text.trim_end_matches(' ').len();
            text.truncate(trimmed);
            text.push('\n');
        }
        text
    }
}
