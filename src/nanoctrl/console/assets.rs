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
        self.with_status(StatusCode::OK)
    }

    pub(super) fn with_status(self, status: StatusCode) -> HttpResponse {
        HttpResponse::build(status)
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

/// Asks for the token.
pub(super) const LOGIN: Asset = Asset {
    path: "/login",
    content_type: HTML,
    text: include_str!("assets/login.html"),
};

/// Asks for the token again.
pub(super) const LOGIN_FAILED: Asset = Asset {
    text: include_str!("assets/login_failed.html"),
    ..LOGIN
};

/// Asks to wait before the next attempt.
pub(super) const LOGIN_SLOWED: Asset = Asset {
    text: include_str!("assets/login_slowed.html"),
    ..LOGIN
};

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
