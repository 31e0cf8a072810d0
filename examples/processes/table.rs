//! A column for each run: names to the left and figures to the right.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

/// A row: its name, and its figure of a run.
pub(crate) type Row<R> = (&'static str, fn(&R) -> String);

pub(crate) fn table<R>(rows: &[Row<R>], runs: &[R]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    for (name, figure) in rows {
        let figures = runs.iter().map(figure);
        table.add_row([(*name).to_owned()].into_iter().chain(figures));
    }
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if at > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}
