//! Messages from a client to a server: written when Aether itself is the client, read when a client speaks to the console.

use super::frame::{cstr, message, packet, take_cstr};
use super::startup::PROTOCOL_3_0;

/// Appends a StartupMessage for protocol 3.0.
pub fn startup<'a>(out: &mut Vec<u8>, parameters: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) {
    packet(out, |b| {
        b.extend_from_slice(&PROTOCOL_3_0.to_be_bytes());
        for (name, value) in parameters {
            cstr(b, name);
            cstr(b, value);
        }
        b.push(0);
    });
}

/// Appends an SSLRequest.
pub fn ssl_request(out: &mut Vec<u8>) {
    packet(out, |b| b.extend_from_slice(&80_877_103u32.to_be_bytes()));
}

/// Appends a CancelRequest.
pub fn cancel_request(out: &mut Vec<u8>, pid: u32, key: &[u8]) {
    packet(out, |b| {
        b.extend_from_slice(&80_877_102u32.to_be_bytes());
        b.extend_from_slice(&pid.to_be_bytes());
        b.extend_from_slice(key);
    });
}

/// Appends a Query.
pub fn query(out: &mut Vec<u8>, sql: &[u8]) {
    message(out, b'Q', |b| cstr(b, sql));
}

/// Appends a PasswordMessage (cleartext, or the md5 digest).
pub fn password(out: &mut Vec<u8>, text: &[u8]) {
    message(out, b'p', |b| cstr(b, text));
}

/// Appends a SASLInitialResponse.
pub fn sasl_initial(out: &mut Vec<u8>, mechanism: &[u8], data: &[u8]) {
    message(out, b'p', |b| {
        cstr(b, mechanism);
        b.extend_from_slice(&(data.len() as u32).to_be_bytes());
        b.extend_from_slice(data);
    });
}

/// Appends a SASLResponse.
pub fn sasl_response(out: &mut Vec<u8>, data: &[u8]) {
    message(out, b'p', |b| b.extend_from_slice(data));
}

/// Appends a Sync.
pub fn sync(out: &mut Vec<u8>) {
    message(out, b'S', |_| {});
}

/// Appends a Terminate.
pub fn terminate(out: &mut Vec<u8>) {
    message(out, b'X', |_| {});
}

/// The text of a Query's body; `None` if it is not one NUL-terminated string.
pub fn query_text(body: &[u8]) -> Option<&[u8]> {
    match take_cstr(body)? {
        (text, []) => Some(text),
        _ => None,
    }
}

/// Reads a SASLInitialResponse's body: mechanism and initial data (`None` when the client sent none).
pub fn read_sasl_initial(body: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let (mechanism, rest) = take_cstr(body)?;
    let (length, data) = super::frame::take_u32(rest)?;
    if length == u32::MAX {
        return data.is_empty().then_some((mechanism, None));
    }
    (data.len() == length as usize).then_some((mechanism, Some(data)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sasl_initial_response_must_have_the_length_that_it_claims() {
        assert_eq!(
            read_sasl_initial(b"X\0\0\0\0\x02ab"),
            Some((&b"X"[..], Some(&b"ab"[..])))
        );
        assert_eq!(
            read_sasl_initial(b"X\0\xff\xff\xff\xff"),
            Some((&b"X"[..], None))
        );
        for broken in [
            &b"X"[..],
            b"X\0",
            b"X\0\0\0\0\x03ab",
            b"X\0\0\0\0\x01ab",
            b"X\0\x7f\xff\xff\xffab",
            b"X\0\xff\xff\xff\xffa",
        ] {
            assert_eq!(read_sasl_initial(broken), None);
        }
    }

    #[test]
    fn a_query_is_one_terminated_string() {
        assert_eq!(query_text(b"select 1\0"), Some(&b"select 1"[..]));
        assert_eq!(query_text(b"select 1"), None);
        assert_eq!(query_text(b"select 1\0x"), None);
    }
}
