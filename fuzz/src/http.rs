//! Requests for metrics: decided by the bytes of their own head alone, and the same in whatever pieces they come.

use aether::limits;
use aether::metrics::http;

/// The property.
pub fn holds(data: &[u8]) {
    let whole = http::read(data);
    match &whole {
        Ok(None) => {
            assert!(data.len() < limits::PAGE_REQUEST_MAX, "more is waited for");
        }
        Ok(Some((request, used))) => {
            assert!(*used <= data.len().min(limits::PAGE_REQUEST_MAX));
            let head = &data[..*used];
            assert_eq!(http::read(head), whole, "what follows does not matter");
            assert!(head.starts_with(b"GET ") || head.starts_with(b"HEAD ") || head[0] < b' ');
            assert!(
                !request.keep_alive || request.chunked,
                "only HTTP/1.1 is asked again"
            );
            for end in [used.saturating_sub(1), used / 2, used / 3] {
                assert_eq!(http::read(&head[..end]), Ok(None), "it was not whole");
            }
        }
        Err(_) => {
            let more = [data, b"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"].concat();
            assert!(http::read(&more).is_err(), "what follows does not mend it");
        }
    }
}
