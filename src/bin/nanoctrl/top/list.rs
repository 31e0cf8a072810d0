//! A list that is sorted by one of its columns, and that may be longer than its place.

use std::cmp::Ordering;

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Text;
use ratatui::widgets::{Block, Borders, Row, Table};
use slimerpc::control::natural_order;

/// A column of a list.
pub(super) struct Column {
    pub(super) head: &'static str,
    /// Least width; the first column takes what is left.
    pub(super) width: u16,
    /// Whether it begins with the largest when the list is sorted by it.
    pub(super) is_number: bool,
}

/// A cell: what is shown, and what is compared.
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) number: f64,
}

impl Cell {
    /// A cell that is compared as text.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            number: 0.0,
        }
    }

    /// A cell that is compared as a number.
    pub(super) fn number(number: f64, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            number,
        }
    }
}

/// A list, and how it is looked at.
pub(super) struct List {
    title: &'static str,
    columns: &'static [Column],
    rows: Vec<Vec<Cell>>,
    sorted_by: usize,
    is_descending: bool,
    /// The first row that is shown.
    first: usize,
    /// Rows that there was room for.
    room: usize,
}

impl List {
    pub(super) fn new(title: &'static str, columns: &'static [Column], sorted_by: usize) -> Self {
        Self {
            title,
            columns,
            rows: Vec::new(),
            sorted_by,
            is_descending: columns[sorted_by].is_number,
            first: 0,
            room: 1,
        }
    }

    /// Shows other rows, each with a cell for each column.
    pub(super) fn set(&mut self, rows: Vec<Vec<Cell>>) {
        self.rows = rows;
        self.sort();
    }

    /// Sorts by a column that lies `step` further to the right, the largest number first.
    pub(super) fn sort_by_next(&mut self, step: isize) {
        let count = self.columns.len() as isize;
        let next = (self.sorted_by as isize + step).rem_euclid(count);
        self.sorted_by = next.unsigned_abs();
        self.is_descending = self.columns[self.sorted_by].is_number;
        self.sort();
    }

    pub(super) fn set_descending(&mut self, is_descending: bool) {
        self.is_descending = is_descending;
        self.sort();
    }

    /// Scrolls by half of what is shown.
    pub(super) fn scroll(&mut self, step: isize) {
        let half = (self.room / 2).max(1);
        self.first = self.first.saturating_add_signed(step * half as isize);
    }

    pub(super) fn scroll_home(&mut self) {
        self.first = 0;
    }

    fn sort(&mut self) {
        let (at, is_number) = (self.sorted_by, self.columns[self.sorted_by].is_number);
        let order = |a: &[Cell], b: &[Cell]| match is_number {
            true => a[at].number.total_cmp(&b[at].number),
            false => natural_order(&a[at].text, &b[at].text),
        };
        // Those that are equal stay in the order of names.
        let by_name = |a: &[Cell], b: &[Cell]| -> Ordering {
            let names = a.iter().zip(b);
            let mut orders = names.map(|(a, b)| natural_order(&a.text, &b.text));
            orders
                .find(|order| order.is_ne())
                .unwrap_or(Ordering::Equal)
        };
        let is_descending = self.is_descending;
        self.rows.sort_by(|a, b| {
            let order = order(a, b);
            let order = if is_descending {
                order.reverse()
            } else {
                order
            };
            order.then_with(|| by_name(a, b))
        });
    }

    /// Draws as many rows as there is room for.
    pub(super) fn draw(&mut self, frame: &mut Frame<'_>, area: Rect, is_chosen: bool) {
        // A border above, and the heads.
        self.room = usize::from(area.height.saturating_sub(2)).max(1);
        self.first = self.first.min(self.rows.len().saturating_sub(self.room));
        let (first, count) = (self.first, self.rows.len());
        let shown = &self.rows[first..count.min(first + self.room)];
        // Columns on the right are left out if the terminal is narrow.
        let mut wide = 0;
        let fits = self.columns.iter().take_while(|column| {
            wide += column.width + 1;
            wide <= area.width + 1
        });
        let fitting = fits.count().max(1);
        let columns = self.columns.iter().enumerate().take(fitting);
        let right = |at: usize, text: String| match self.columns[at].is_number {
            true => Text::from(text).right_aligned(),
            false => Text::from(text),
        };
        let heads = columns.clone().map(|(at, column)| {
            let arrow = match (at == self.sorted_by, self.is_descending) {
                (false, _) => "",
                (true, true) => "▼",
                (true, false) => "▲",
            };
            right(at, format!("{}{arrow}", column.head))
        });
        let rows = shown.iter().map(|row| {
            let cells = row.iter().enumerate().take(fitting);
            Row::new(cells.map(|(at, cell)| right(at, cell.text.clone())))
        });
        let widths = columns.map(|(at, column)| match at {
            0 => Constraint::Min(column.width),
            _ => Constraint::Length(column.width),
        });
        let title = match count {
            0 => format!(" {}: none ", self.title),
            _ => format!(
                " {} {}-{} of {count} ",
                self.title,
                first + 1,
                first + shown.len()
            ),
        };
        let emphasis = match is_chosen {
            true => Style::new().add_modifier(Modifier::BOLD),
            false => Style::new(),
        };
        let table = Table::new(rows, widths)
            .header(Row::new(heads).style(Style::new().add_modifier(Modifier::REVERSED)))
            .block(
                Block::new()
                    .borders(Borders::TOP)
                    .title(title)
                    .border_style(emphasis),
            );
        frame.render_widget(table, area);
    }
}
