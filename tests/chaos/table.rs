//! Tables as they are printed: words to the left and figures to the right.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

pub(crate) fn print(rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(NOTHING).add_rows(rows);
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if at > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("{}", table.trim_fmt());
}
