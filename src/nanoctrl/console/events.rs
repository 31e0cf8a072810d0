//! The stream of server-sent events to one console: `all` first, then a `change` a second. While
//! there is none a `tick` says that the server lives.

use std::time::{Duration, Instant};

use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::stream;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::admission;
use super::login::network;
use super::reader::Refused;
use super::seats::{MOST_CONSOLES, Seat};
use crate::nanoctrl::server::App;

/// The stream is handed out in pieces, so that a console which reads slowly has one of them copied
/// for it, and all consoles share the rest.
const PIECE: usize = 16 * 1024;

/// Longest silence. A page that hears nothing for 15 s takes the server for lost.
const SILENCE: Duration = Duration::from_secs(3);
const TICK: &[u8] = b"event: tick\ndata: null\n\n";

struct Console {
    app: Data<App>,
    /// Key of the session that it is opened with; none if it has brought the token itself.
    session: Option<String>,
    seat: Seat,
    /// `None` once it could not catch up; the browser then connects again.
    updates: Option<Receiver<Bytes>>,
    /// What is being sent.
    rest: Bytes,
    /// Whether it must be told all, as it has missed something.
    is_behind: bool,
}

pub(super) async fn stream(app: Data<App>, request: HttpRequest) -> HttpResponse {
    let from = network(admission::visitor(&request));
    let opened = match app.console.reader.open(from) {
        Ok(opened) => opened,
        Err(refused) => return refuse(refused),
    };
    let login = &app.console.login;
    let session = admission::session(&request).filter(|key| login.has(key, Instant::now()));
    let console = Console {
        session: session.map(ToOwned::to_owned),
        updates: Some(opened.updates),
        seat: opened.seat,
        rest: hello(&app),
        app,
        is_behind: true,
    };
    let pieces = stream::unfold(console, async |mut console| {
        let piece = console.piece().await?;
        Some((Ok::<_, actix_web::Error>(piece), console))
    });
    HttpResponse::Ok()
        .content_type("text/event-stream")
        // Proxies would collect it.
        .insert_header(("x-accel-buffering", "no"))
        .streaming(pieces)
}

/// Begins the stream, and has browsers wait two seconds before they connect again.
fn hello(app: &App) -> Bytes {
    let login = !app.console.login.is_open();
    let text = format!("retry: 2000\nevent: hello\ndata: {{\"login\":{login}}}\n\n");
    Bytes::from(text)
}

impl Console {
    /// The next piece; `None` when the server stops, the session has ended, or another console has
    /// got the seat.
    async fn piece(&mut self) -> Option<Bytes> {
        while self.rest.is_empty() {
            let updates = self.updates.as_mut()?;
            if self.is_behind {
                let updates = self.updates.take()?;
                let (all, updates) = self.app.console.reader.catch_up(updates).await?;
                (self.rest, self.updates, self.is_behind) = (all, Some(updates), false);
            } else {
                match tokio::time::timeout(SILENCE, updates.recv()).await {
                    Err(_) => self.rest = Bytes::from_static(TICK),
                    Ok(Ok(update)) => self.rest = update,
                    Ok(Err(RecvError::Lagged(_))) => self.is_behind = true,
                    Ok(Err(RecvError::Closed)) => return None,
                }
            }
            if !self.may_look() {
                return None;
            }
        }
        Some(self.rest.split_to(self.rest.len().min(PIECE)))
    }

    fn may_look(&self) -> bool {
        let login = &self.app.console.login;
        let session = self.session.as_ref();
        !self.seat.is_lost() && session.is_none_or(|key| login.has(key, Instant::now()))
    }
}

fn refuse(refused: Refused) -> HttpResponse {
    let reason = match refused {
        Refused::Full => format!("{MOST_CONSOLES} consoles are open; close one"),
        Refused::Stopping => "the server is stopping".to_owned(),
    };
    HttpResponse::ServiceUnavailable()
        .content_type("text/plain; charset=utf-8")
        .body(reason)
}
