//! Tables as the console sends them: columns, rows, and values that are only made when somebody wants them.

use std::cmp::Ordering;

use crate::engine::Engine;
use crate::wire::backend::{self, ColumnType, INT4, INT8, NUMERIC};

/// A column: its name and type.
pub(super) type Column = (&'static str, ColumnType);

/// One value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// NULL.
    Null,
    /// A whole number.
    Number(i64),
    /// Anything else.
    Text(String),
}

impl Value {
    /// A number; of what is too large for one, the largest.
    pub(super) fn number(value: impl TryInto<i64>) -> Value {
        Value::Number(value.try_into().unwrap_or(i64::MAX))
    }

    /// A text.
    pub(super) fn text(value: impl Into<String>) -> Value {
        Value::Text(value.into())
    }

    /// A text, or NULL.
    pub(super) fn optional(value: Option<String>) -> Value {
        value.map_or(Value::Null, Value::Text)
    }

    /// As it is sent.
    pub(super) fn into_text(self) -> Option<String> {
        match self {
            Value::Null => None,
            Value::Number(number) => Some(number.to_string()),
            Value::Text(text) => Some(text),
        }
    }

    /// Numbers by size, texts by bytes, NULL behind everything, as PostgreSQL does it.
    pub(super) fn order(&self, other: &Value) -> Ordering {
        match (self, other) {
            (Value::Null, Value::Null) => Ordering::Equal,
            (Value::Null, _) => Ordering::Greater,
            (_, Value::Null) => Ordering::Less,
            (Value::Number(a), Value::Number(b)) => a.cmp(b),
            (Value::Text(a), Value::Text(b)) => a.cmp(b),
            (Value::Number(_), Value::Text(_)) => Ordering::Less,
            (Value::Text(_), Value::Number(_)) => Ordering::Greater,
        }
    }
}

/// Whether the values of a column are numbers.
pub(super) fn is_numeric(kind: ColumnType) -> bool {
    [INT4, INT8, NUMERIC].contains(&kind)
}

/// A row: its values by column.
pub(super) trait Row {
    /// The value in a column; NULL in one that there is not.
    fn value(&self, column: usize) -> Value;
}

/// A row that is there already.
impl Row for Vec<Value> {
    fn value(&self, column: usize) -> Value {
        self.get(column).cloned().unwrap_or(Value::Null)
    }
}

/// What a SHOW tells. Every row has a place, a number by which it is found again when the answer goes on: connections come and
/// go in between. A table keeps what has to be the same from the first row to the last, and nothing else of the engine.
pub(super) trait Table {
    /// Its columns.
    fn columns(&self) -> Vec<Column>;
    /// The place of the first row at or behind this one.
    fn place(&self, engine: &Engine, from: u64) -> Option<u64>;
    /// The row at a place, if there still is one.
    fn row<'a>(&'a self, engine: &'a Engine, place: u64) -> Option<Box<dyn Row + 'a>>;
    /// How many of its first columns rows are sorted by where nothing else is asked for.
    fn sorted_by(&self) -> usize {
        0
    }
}

/// A table that is made as a whole: a short one.
pub(super) struct Short {
    /// Its columns.
    pub(super) columns: &'static [Column],
    /// Its rows.
    pub(super) rows: Vec<Vec<Value>>,
}

impl Table for Short {
    fn columns(&self) -> Vec<Column> {
        self.columns.to_vec()
    }

    fn place(&self, _: &Engine, from: u64) -> Option<u64> {
        (from < self.rows.len() as u64).then_some(from)
    }

    fn row<'a>(&'a self, _: &'a Engine, place: u64) -> Option<Box<dyn Row + 'a>> {
        let row = self.rows.get(usize::try_from(place).ok()?)?;
        Some(Box::new(row.clone()))
    }
}

/// Appends the columns; `binary` says of each whether its values are.
pub(super) fn write_columns(columns: &[Column], binary: &[bool], out: &mut Vec<u8>) {
    let format = |at: usize| binary.get(at).copied().unwrap_or(false);
    let columns = columns.iter().enumerate();
    let columns = columns.map(|(at, (name, kind))| (*name, *kind, format(at)));
    backend::write_row_description_in(out, columns);
}

/// Appends a row.
pub(super) fn write_row(columns: &[Column], binary: &[bool], row: &dyn Row, out: &mut Vec<u8>) {
    let value = |(at, (_, kind)): (usize, &Column)| {
        let value = row.value(at);
        match binary.get(at) {
            Some(true) => in_binary(value, *kind),
            _ => value.into_text().map(String::into_bytes),
        }
    };
    let values: Vec<Option<Vec<u8>>> = columns.iter().enumerate().map(value).collect();
    backend::write_data_row_in(out, values.iter().map(Option::as_deref));
}

/// A value as PostgreSQL's drivers read it in the binary format.
fn in_binary(value: Value, kind: ColumnType) -> Option<Vec<u8>> {
    let number = match value {
        Value::Null => return None,
        Value::Text(text) if !is_numeric(kind) => return Some(text.into_bytes()),
        // A column of numbers has numbers.
        Value::Text(text) => text.parse().unwrap_or(0),
        Value::Number(number) => number,
    };
    Some(match kind {
        INT4 => i32::try_from(number)
            .unwrap_or(i32::MAX)
            .to_be_bytes()
            .to_vec(),
        INT8 => number.to_be_bytes().to_vec(),
        NUMERIC => numeric(number),
        _ => number.to_string().into_bytes(),
    })
}

/// `numeric`: how many digits of four decimals, the weight of the first, the sign, no decimals behind the point, and the digits.
fn numeric(number: i64) -> Vec<u8> {
    let mut digits = Vec::new();
    let mut left = number.unsigned_abs();
    while left > 0 {
        digits.push((left % 10_000) as u16);
        left /= 10_000;
    }
    let count = digits.len() as u16;
    let sign: u16 = if number < 0 { 0x4000 } else { 0 };
    let head = [count, count.saturating_sub(1), sign, 0];
    let all = head.into_iter().chain(digits.into_iter().rev());
    all.flat_map(u16::to_be_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_sent_in_binary_as_postgresql_does() {
        let hex = |number, kind| {
            let bytes = in_binary(Value::Number(number), kind).unwrap_or_default();
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        assert_eq!(hex(7, INT4), "00000007");
        assert_eq!(hex(-1, INT8), "ffffffffffffffff");
        // SELECT encode(numeric_send(n), 'hex')
        assert_eq!(hex(0, NUMERIC), "0000000000000000");
        assert_eq!(hex(12_345_678, NUMERIC), "000200010000000004d2162e");
        assert_eq!(
            hex(-10_000, NUMERIC),
            "00020001400000000001 0000".replace(' ', "")
        );
    }

    #[test]
    fn values_are_ordered_as_postgresql_does() {
        let (null, nine, ten) = (Value::Null, Value::Number(9), Value::Number(10));
        assert!(nine.order(&ten).is_lt() && ten.order(&null).is_lt());
        assert!(Value::text("10").order(&Value::text("9")).is_lt());
    }
}
