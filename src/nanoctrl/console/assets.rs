//! The files of the pages. They are part of the program, so nothing has to be installed and no
//! other server is asked.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;

/// A file.
#[derive(Clone, Copy)]
pub(super) struct Asset {
    /// The path below the console's.
    pub(super) path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

impl Asset {
    pub(super) async fn answer(self) -> HttpResponse {
        HttpResponse::Ok()
            .content_type(self.content_type)
            .body(self.text)
    }
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The console.
pub(super) const PAGE: Asset = Asset {
    path: "",
    content_type: HTML,
    text: include_str!("assets/console.html"),
};

/// Said by the page that asks for the token, if it was asked for before.
pub(super) const WRONG: &str = "That is not the token.";
/// The same to those who have to wait before the next attempt.
pub(super) const SLOWED: &str =
    "Too many attempts from your address. Wait two seconds, then try again.";
/// Where the page has what it says.
const NOTICE: &str = "<!-- notice -->";

/// Asks for the token. `notice` says why again, and is empty the first time.
pub(super) fn login(status: StatusCode, notice: &'static str) -> HttpResponse {
    let notice = match notice {
        "" => String::new(),
        notice => format!(r#"<p class="notice bad" role="alert">{notice}</p>"#),
    };
    let page = include_str!("assets/login.html").replace(NOTICE, &notice);
    HttpResponse::build(status).content_type(HTML).body(page)
}

const fn script(path: &'static str, text: &'static str) -> Asset {
    Asset {
        path,
        content_type: SCRIPT,
        text,
    }
}

/// The parts of the pages. They hold nothing that is secret.
pub(super) const ALL: [Asset; 10] = [
    Asset {
        path: "/style.css",
        content_type: "text/css; charset=utf-8",
        text: include_str!("assets/style.css"),
    },
    Asset {
        path: "/icon.svg",
        content_type: "image/svg+xml",
        text: include_str!("assets/icon.svg"),
    },
    script("/theme.js", include_str!("assets/theme.js")),
    script("/console.js", include_str!("assets/console.js")),
    script("/element.js", include_str!("assets/element.js")),
    script("/format.js", include_str!("assets/format.js")),
    script("/store.js", include_str!("assets/store.js")),
    script("/graph.js", include_str!("assets/graph.js")),
    script("/tables.js", include_str!("assets/tables.js")),
    script("/agent.js", include_str!("assets/agent.js")),
];
