//! Headers with lists (RFC 9110, §5.6.1).

use hyper::header::{HeaderMap, HeaderName};

/// The items of all lines of a header, in order, without white space around them. Lines that are not ASCII text are skipped.
pub(crate) fn items<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl DoubleEndedIterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use hyper::header::{ACCEPT, HeaderValue};

    use super::*;

    #[test]
    fn lines_form_one_list() {
        let mut headers = HeaderMap::new();
        for line in [&b"a, b"[..], b"\xff, c", b" d;q=1 ,,e"] {
            headers.append(ACCEPT, HeaderValue::from_bytes(line).unwrap());
        }
        assert_eq!(items(&headers, &ACCEPT).collect::<Vec<_>>(), ["a", "b", "d;q=1", "", "e"]);
    }
}
