//! Which page has sent a form.
//!
//! Any page may have a browser send a form here. Its wrong tokens would count as those of the
//! browser's user, who would then be slowed.

use actix_web::http::header::{HOST, HeaderMap, HeaderName, ORIGIN};

use super::admission::header;
use crate::nanoctrl::host;

/// What browsers say of the page that sends, where they trust the connection: over TLS, and on
/// this machine.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Returns whether a request comes from a page of this server, or from no page at all: programs do
/// not say.
pub(super) fn has_sent(headers: &HeaderMap) -> bool {
    match header(headers, SITE) {
        "same-origin" | "none" => return true,
        "cross-site" => return false,
        // Another port or name beside this one, or an older browser.
        _ => {}
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return true;
    };
    // A page that hides where it is from has the origin `null`.
    let origin = origin.to_str().unwrap_or_default().split_once("://");
    origin.is_some_and(|(_, origin)| {
        let (origin, here) = (host::without_port(origin), header(headers, HOST));
        origin.eq_ignore_ascii_case(host::without_port(here))
    })
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn sent(lines: &[(&str, &str)]) -> bool {
        let mut request = TestRequest::default();
        for line in lines {
            request = request.insert_header(*line);
        }
        has_sent(request.to_http_request().headers())
    }

    #[test]
    fn a_form_is_taken_from_a_page_of_this_server_and_from_programs() {
        let host = ("host", "10.0.0.5:3000");
        assert!(sent(&[host]));
        for origin in [
            "http://10.0.0.5:3000",
            "https://10.0.0.5",
            "http://10.0.0.5:81",
        ] {
            assert!(sent(&[host, ("origin", origin)]), "{origin}");
        }
        for origin in [
            "http://evil.example",
            "null",
            "",
            "10.0.0.5:3000",
            "http://10.0.0.50",
        ] {
            assert!(!sent(&[host, ("origin", origin)]), "{origin}");
            // Behind a proxy with TLS the name may be another.
            for site in ["same-origin", "none"] {
                assert!(sent(&[host, ("origin", origin), ("sec-fetch-site", site)]));
            }
        }
        let cross = ("sec-fetch-site", "cross-site");
        assert!(!sent(&[host, cross]));
        assert!(!sent(&[host, cross, ("origin", "http://10.0.0.5:3000")]));
    }
}
