//! Plain tables: aligned columns, no borders, upper-case headings; numbers to the right. Pure.

use comfy_table::{CellAlignment, ContentArrangement, Table as Layout, presets};

/// A table that is filled row by row.
#[derive(Debug)]
pub struct Table {
    layout: Layout,
}

/// A column's heading and alignment.
#[derive(Clone, Copy, Debug)]
pub enum Column {
    /// Text, to the left.
    Text(&'static str),
    /// A number, to the right.
    Number(&'static str),
}

impl Table {
    /// An empty table.
    pub fn new(columns: &[Column]) -> Self {
        let mut layout = Layout::new();
        layout.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        layout.set_header(columns.iter().map(|column| match column {
            Column::Text(name) | Column::Number(name) => *name,
        }));
        for (index, column) in columns.iter().enumerate() {
            if let Some(settings) = layout.column_mut(index) {
                settings.set_padding((0, 2));
                if matches!(column, Column::Number(_)) {
                    settings.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        Self { layout }
    }

    /// Appends a row; it has one cell a column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.layout.add_row(cells);
    }

    /// The text, one line a row, without trailing blanks; empty without rows would still name the columns.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for line in self.layout.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// `value` with a comma between thousands.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `bytes` in the unit that leaves at most four digits.
pub fn bytes_shown(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut scale: u64 = 1;
    while unit + 1 < UNITS.len() && bytes / scale >= 1024 {
        scale *= 1024;
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    let tenths = u128::from(bytes) * 10 / u128::from(scale);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_lines_have_no_trailing_blanks() {
        let mut table = Table::new(&[Column::Text("TOPIC"), Column::Number("PARTITIONS"), Column::Text("ID")]);
        table.row(["orders".into(), "3".into(), "a".into()]);
        table.row(["a-longer-name".into(), "1,024".into(), String::new()]);
        assert_eq!(
            table.render(),
            "TOPIC          PARTITIONS  ID\norders                  3  a\na-longer-name       1,024\n"
        );
    }

    #[test]
    fn numbers_read_easily() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(bytes_shown(1_023), "1023 B");
        assert_eq!(bytes_shown(1_536), "1.5 KiB");
        assert_eq!(bytes_shown(u64::MAX), "16383.9 PiB");
    }
}
