//! The console: pages at `/console` that show the agents of all scopes, live.
//!
//! | file | holds |
//! | --- | --- |
//! | `admission` | who gets to see the pages, and the headers that all answers have |
//! | `login` | tokens, sessions, and those who guess |
//! | `own_page` | which page has sent a login |
//! | `own_host` | which names this server goes by, if anybody may look |
//! | `assets` | the pages themselves; they are part of the program |
//! | `reader` | reads Redis once a second, for all open consoles together |
//! | `seats` | how many consoles may be open, and whose |
//! | `board` | what the last readings were, and what is new in one |
//! | `view` | what a page is told about one agent |
//! | `events` | the stream of server-sent events to one page |
//!
//! Nothing here writes to Redis, and nothing reads it while no console is open. Names and texts of
//! agents go to the page as JSON, and the page puts them into the document as text.

mod admission;
mod assets;
mod board;
mod events;
mod login;
mod own_host;
mod own_page;
mod reader;
mod seats;
mod view;

use actix_web::dev::Handler;
use actix_web::middleware::from_fn;
use actix_web::web::{self, Data, Query, ServiceConfig};
use actix_web::{FromRequest, HttpResponse, Resource, Responder};
use serde::Deserialize;

use login::Login;
use own_host::OwnHost;
pub(super) use reader::Reader;

use super::config::Config;
use super::repository::Repository;
use super::server::{App, post, refuse_method};

/// Where the console is.
const ROOT: &str = "/console";

/// What the console of a server keeps.
pub(super) struct Console {
    login: Login,
    own_host: OwnHost,
    pub(super) reader: Reader,
}

impl Console {
    pub(super) fn new(config: &Config, repository: Repository) -> Self {
        Self {
            login: Login::new(config.token.clone()),
            own_host: OwnHost::new(&config.host),
            reader: Reader::new(repository),
        }
    }
}

/// Returns whether a path is the console's, which admits its visitors itself.
pub(super) fn has(path: &str) -> bool {
    let rest = path.strip_prefix(ROOT);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Adds the console's routes.
pub(super) fn routes(app: &mut ServiceConfig) {
    let mut scope = web::scope(ROOT).wrap(from_fn(admission::admit));
    for asset in assets::ALL {
        scope = scope.service(get(asset.path, move || asset.answer()));
    }
    app.service(
        scope
            .service(get("", || assets::PAGE.answer()))
            .service(
                web::resource("/events")
                    .route(web::get().to(events::stream))
                    .default_service(web::to(|| refuse_method("GET"))),
            )
            .service(get("/agent", agent))
            .service(
                get("/login", admission::to_login)
                    .route(web::post().to(admission::log_in))
                    .default_service(web::to(|| refuse_method("GET,HEAD,POST"))),
            )
            .service(post("/logout", admission::log_out)),
    );
}

/// A resource that is read. Whoever asks for its head alone gets the rest of the answer thrown
/// away.
fn get<F, Arguments>(path: &str, handler: F) -> Resource
where
    F: Handler<Arguments>,
    F::Output: Responder + 'static,
    Arguments: FromRequest + 'static,
{
    web::resource(path)
        .route(web::get().to(handler.clone()))
        .route(web::head().to(handler))
        .default_service(web::to(|| refuse_method("GET,HEAD")))
}

/// Names an agent.
#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    scope: String,
    alias: String,
}

/// All that is known of one agent, as of the last reading.
async fn agent(app: Data<App>, named: Query<Named>) -> HttpResponse {
    let Named { scope, alias } = named.into_inner();
    match app.console.reader.details(scope, alias).await {
        Some(details) => HttpResponse::Ok()
            .content_type("application/json")
            .body(details),
        None => HttpResponse::NotFound()
            .content_type("text/plain; charset=utf-8")
            .body("no such agent has been seen since a console was opened"),
    }
}
