//! Messages from a server to a client: read when Aether logs in to a server, written when Aether answers a client itself.

use super::frame::{cstr, message, take_cstr, take_u32};

/// The status byte of ReadyForQuery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    /// `I`: outside a transaction block.
    Idle,
    /// `T`: in a transaction block.
    InBlock,
    /// `E`: in a failed transaction block.
    Failed,
}

impl TransactionStatus {
    /// From the byte on the wire; `None` for any other byte.
    pub fn from_byte(byte: u8) -> Option<TransactionStatus> {
        match byte {
            b'I' => Some(TransactionStatus::Idle),
            b'T' => Some(TransactionStatus::InBlock),
            b'E' => Some(TransactionStatus::Failed),
            _ => None,
        }
    }
}

/// An Authentication message (`R`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// Code 0.
    Ok,
    /// Code 3.
    CleartextPassword,
    /// Code 5, with its salt.
    Md5Password([u8; 4]),
    /// Code 10, with the list of mechanisms, each NUL-terminated, and a final NUL.
    Sasl(&'a [u8]),
    /// Code 11.
    SaslContinue(&'a [u8]),
    /// Code 12.
    SaslFinal(&'a [u8]),
    /// Anything else (GSS, SSPI, Kerberos).
    Other(u32),
}

/// Reads the body of an Authentication message; `None` if it is broken.
pub fn authentication(body: &[u8]) -> Option<Authentication<'_>> {
    let (code, rest) = take_u32(body)?;
    Some(match code {
        0 => Authentication::Ok,
        3 => Authentication::CleartextPassword,
        5 => Authentication::Md5Password(rest.try_into().ok()?),
        10 => Authentication::Sasl(rest),
        11 => Authentication::SaslContinue(rest),
        12 => Authentication::SaslFinal(rest),
        other => Authentication::Other(other),
    })
}

/// Reads the body of a ParameterStatus: name and value.
pub fn parameter_status(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = take_cstr(body)?;
    match take_cstr(rest)? {
        (value, []) => Some((name, value)),
        _ => None,
    }
}

/// Reads the body of a BackendKeyData: process id and key.
pub fn backend_key_data(body: &[u8]) -> Option<(u32, &[u8])> {
    let (pid, key) = take_u32(body)?;
    (4..=256).contains(&key.len()).then_some((pid, key))
}

/// Appends AuthenticationOk.
pub fn write_authentication_ok(out: &mut Vec<u8>) {
    write_authentication(out, 0, b"");
}

/// Appends an Authentication request: code and what follows it.
pub fn write_authentication(out: &mut Vec<u8>, code: u32, data: &[u8]) {
    message(out, b'R', |b| {
        b.extend_from_slice(&code.to_be_bytes());
        b.extend_from_slice(data);
    });
}

/// Appends a ParameterStatus. Neither name nor value may have a NUL in it, as none has that was [read](parameter_status).
pub fn write_parameter_status(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    debug_assert!(!name.contains(&0) && !value.contains(&0));
    let length = (4 + name.len() + 1 + value.len() + 1) as u32;
    out.reserve(1 + length as usize);
    out.push(b'S');
    for part in [&length.to_be_bytes(), name, &[0], value, &[0]] {
        out.extend_from_slice(part);
    }
}

/// Appends a BackendKeyData.
pub fn write_backend_key_data(out: &mut Vec<u8>, pid: u32, key: &[u8]) {
    message(out, b'K', |b| {
        b.extend_from_slice(&pid.to_be_bytes());
        b.extend_from_slice(key);
    });
}

/// Appends a ReadyForQuery outside a transaction.
pub fn write_ready(out: &mut Vec<u8>) {
    message(out, b'Z', |b| b.push(b'I'));
}

/// A column's type, as the console needs them: OID and size in bytes (-1: of varying size).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnType {
    /// OID in `pg_type`.
    pub oid: u32,
    /// `typlen`.
    pub size: i16,
}

impl ColumnType {
    /// The name in `pg_type`.
    pub fn name(self) -> &'static str {
        match self {
            BYTEA => "bytea",
            INT4 => "int4",
            INT8 => "int8",
            NUMERIC => "numeric",
            _ => "text",
        }
    }
}

/// `text`
pub const TEXT: ColumnType = ColumnType { oid: 25, size: -1 };
/// `bytea`
pub const BYTEA: ColumnType = ColumnType { oid: 17, size: -1 };
/// `int4`
pub const INT4: ColumnType = ColumnType { oid: 23, size: 4 };
/// `int8`
pub const INT8: ColumnType = ColumnType { oid: 20, size: 8 };
/// `numeric`
pub const NUMERIC: ColumnType = ColumnType {
    oid: 1700,
    size: -1,
};

/// Appends a RowDescription of text-format columns that belong to no table.
pub fn write_row_description<'a>(
    out: &mut Vec<u8>,
    columns: impl ExactSizeIterator<Item = (&'a str, ColumnType)>,
) {
    write_row_description_in(out, columns.map(|(name, kind)| (name, kind, false)));
}

/// The same, with the format of each column: whether it is binary.
pub fn write_row_description_in<'a>(
    out: &mut Vec<u8>,
    columns: impl ExactSizeIterator<Item = (&'a str, ColumnType, bool)>,
) {
    message(out, b'T', |b| {
        b.extend_from_slice(&(columns.len() as u16).to_be_bytes());
        for (name, kind, binary) in columns {
            cstr(b, name.as_bytes());
            b.extend_from_slice(&[0; 6]); // table OID, attribute number
            b.extend_from_slice(&kind.oid.to_be_bytes());
            b.extend_from_slice(&kind.size.to_be_bytes());
            b.extend_from_slice(&(-1i32).to_be_bytes()); // type modifier
            b.extend_from_slice(&u16::from(binary).to_be_bytes());
        }
    });
}

/// Appends a DataRow; `None` is NULL.
pub fn write_data_row<'a>(
    out: &mut Vec<u8>,
    values: impl ExactSizeIterator<Item = Option<&'a str>>,
) {
    write_data_row_in(out, values.map(|value| value.map(str::as_bytes)));
}

/// The same, of values in any format.
pub fn write_data_row_in<'a>(
    out: &mut Vec<u8>,
    values: impl ExactSizeIterator<Item = Option<&'a [u8]>>,
) {
    message(out, b'D', |b| {
        b.extend_from_slice(&(values.len() as u16).to_be_bytes());
        for value in values {
            match value {
                None => b.extend_from_slice(&(-1i32).to_be_bytes()),
                Some(bytes) => {
                    b.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
                    b.extend_from_slice(bytes);
                }
            }
        }
    });
}

/// Appends a CommandComplete.
pub fn write_command_complete(out: &mut Vec<u8>, tag: &str) {
    message(out, b'C', |b| cstr(b, tag.as_bytes()));
}

/// Appends a ParseComplete.
pub fn write_parse_complete(out: &mut Vec<u8>) {
    message(out, b'1', |_| {});
}

/// Appends a BindComplete.
pub fn write_bind_complete(out: &mut Vec<u8>) {
    message(out, b'2', |_| {});
}

/// Appends a CloseComplete.
pub fn write_close_complete(out: &mut Vec<u8>) {
    message(out, b'3', |_| {});
}

/// Appends a NoData.
pub fn write_no_data(out: &mut Vec<u8>) {
    message(out, b'n', |_| {});
}

/// Appends a PortalSuspended.
pub fn write_portal_suspended(out: &mut Vec<u8>) {
    message(out, b's', |_| {});
}

/// Appends a ParameterDescription.
pub fn write_parameter_description(out: &mut Vec<u8>, types: &[u32]) {
    message(out, b't', |b| {
        b.extend_from_slice(&(types.len() as u16).to_be_bytes());
        for oid in types {
            b.extend_from_slice(&oid.to_be_bytes());
        }
    });
}

/// Appends an EmptyQueryResponse.
pub fn write_empty_query(out: &mut Vec<u8>) {
    message(out, b'I', |_| {});
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_bodies_are_none() {
        assert_eq!(authentication(b"\0\0\0"), None);
        assert_eq!(authentication(b"\0\0\0\x05abc"), None);
        assert_eq!(
            authentication(b"\0\0\0\x05abcd"),
            Some(Authentication::Md5Password(*b"abcd"))
        );
        assert_eq!(parameter_status(b"a\0b"), None);
        assert_eq!(parameter_status(b"a\0b\0c"), None);
        assert_eq!(parameter_status(b"a\0b\0"), Some((&b"a"[..], &b"b"[..])));
        assert_eq!(backend_key_data(b"\0\0\0\x01abc"), None);
        assert_eq!(backend_key_data(b"\0\0\0\x01abcd"), Some((1, &b"abcd"[..])));
    }
}
