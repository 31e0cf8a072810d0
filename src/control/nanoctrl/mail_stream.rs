//! The mail of an agent: its stream and its inbox lists, as one stream of events.
//!
//! Each is read with blocking commands on a connection of its own, so an idle agent costs two
//! commands per waiting time. No task is spawned: the connections are read only while the stream is
//! polled.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::stream::{self, Stream};
use redis::{Cmd, RedisError, Value, aio::MultiplexedConnection};

use super::outage::Outage;
use super::{parse, renewal::Renewal, session::Session, store::Epoch};
use crate::control::MailEvent;

/// Most entries read at once.
const BATCH: usize = 100;

/// Added to the waiting time before a silent connection counts as dead.
const GRACE: Duration = Duration::from_secs(5);

/// All events for `session`, without end. `wait` is how long a blocking command waits; Redis counts
/// it in whole seconds. After an outage the registration is checked, too.
pub(super) fn events(
    session: Arc<Session>,
    renewal: Renewal,
    wait: Duration,
) -> impl Stream<Item = MailEvent> + Send {
    let from_first = StreamSource::Stream(FIRST.to_owned());
    let mail = Reader::new(Arc::clone(&session), renewal.clone(), from_first, wait);
    let notices = Reader::new(session, renewal, StreamSource::Inbox, wait);
    stream::select(mail.events(), notices.events())
}

/// The id before all entries of a stream.
const FIRST: &str = "0-0";

/// The source that a reader reads.
#[derive(Debug)]
enum StreamSource {
    /// The stream, after the entry of this id.
    Stream(String),
    /// The inbox lists.
    Inbox,
}

/// Reads one source, through outages.
#[derive(Debug)]
struct Reader {
    session: Arc<Session>,
    renewal: Renewal,
    source: StreamSource,
    wait: Duration,
    line: Option<(MultiplexedConnection, Epoch)>,
    /// Generation of the address for which the position in the stream holds.
    generation: u64,
    ready: VecDeque<MailEvent>,
    outage: Outage,
}

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error("the answer to XREAD has an unknown shape")]
    Shape,
}

impl Reader {
    fn new(session: Arc<Session>, renewal: Renewal, source: StreamSource, wait: Duration) -> Self {
        Self {
            generation: session.store.epoch().generation,
            session,
            renewal,
            source,
            wait: Duration::from_secs(wait.as_secs().max(1)),
            line: None,
            ready: VecDeque::new(),
            outage: Outage::default(),
        }
    }

    fn events(self) -> impl Stream<Item = MailEvent> + Send {
        stream::unfold(self, |mut reader| async move {
            let event = reader.next().await;
            Some((event, reader))
        })
    }

    async fn next(&mut self) -> MailEvent {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            match self.fetch().await {
                Ok(()) => {}
                Err(failure) => self.sit_out(&failure).await,
            }
        }
    }

    /// Reads once; the results are in `ready` afterwards.
    async fn fetch(&mut self) -> Result<(), Failure> {
        let patience = self.wait + GRACE;
        let mut connection = self.connection().await?;
        let command = self.command();
        let asked = command.query_async::<Value>(&mut connection);
        let answer = tokio::time::timeout(patience, asked)
            .await
            .map_err(|_| Failure::Silent(patience))??;
        self.take(answer)
    }

    /// The connection; a new one if there is none or Redis has moved.
    async fn connection(&mut self) -> Result<MultiplexedConnection, Failure> {
        let epoch = self.session.store.epoch();
        if let Some((connection, of)) = &self.line
            && *of == epoch
        {
            return Ok(connection.clone());
        }
        let (mut connection, epoch) = self.session.store.open().await?;
        let checked = tokio::time::timeout(GRACE, self.check_position(&mut connection));
        checked.await.map_err(|_| Failure::Silent(GRACE))??;
        // An outage ends with the connection, even if no event follows.
        self.outage_is_over();
        self.line = Some((connection.clone(), epoch));
        Ok(connection)
    }

    /// Checks that Redis answers, and starts from the beginning if the stream ends before the
    /// reader's position: Redis has then lost the stream and started another. If the clock was set
    /// back as well, all new entries would otherwise seem to have been read.
    async fn check_position(&mut self, line: &mut MultiplexedConnection) -> Result<(), Failure> {
        let StreamSource::Stream(last) = &mut self.source else {
            return Ok(redis::cmd("PING").exec_async(line).await?);
        };
        let mut newest = redis::cmd("XREVRANGE");
        let stream = self.session.keys.stream(&self.session.alias);
        newest.arg(stream).arg("+").arg("-").arg("COUNT").arg(1);
        let newest: Value = newest.query_async(line).await?;
        if parse::newest_id(&newest) < parse::id(last) {
            FIRST.clone_into(last);
        }
        Ok(())
    }

    fn command(&mut self) -> Cmd {
        let generation = self.session.store.epoch().generation;
        if generation != self.generation {
            self.generation = generation;
            if let StreamSource::Stream(last) = &mut self.source {
                FIRST.clone_into(last);
            }
        }
        let Session { keys, alias, .. } = &*self.session;
        match &self.source {
            StreamSource::Stream(last) => {
                let mut xread = redis::cmd("XREAD");
                xread.arg("BLOCK").arg(self.wait.as_secs() * 1000);
                xread.arg("COUNT").arg(BATCH);
                xread.arg("STREAMS").arg(keys.stream(alias)).arg(last);
                xread
            }
            StreamSource::Inbox => {
                let mut blpop = redis::cmd("BLPOP");
                blpop.arg(keys.inboxes(alias)).arg(self.wait.as_secs());
                blpop
            }
        }
    }

    fn take(&mut self, answer: Value) -> Result<(), Failure> {
        match &mut self.source {
            StreamSource::Stream(last) => {
                for (id, mail) in parse::entries(answer).ok_or(Failure::Shape)? {
                    match mail {
                        Ok(mail) => self.ready.push_back(MailEvent::Mail(mail)),
                        Err(reason) => skipped(&self.session.alias, &id, reason),
                    }
                    *last = id;
                }
            }
            StreamSource::Inbox => match parse::notice(answer) {
                Some(Ok(event)) => self.ready.push_back(event),
                Some(Err(reason)) => skipped(&self.session.alias, "inbox", reason),
                None => {}
            },
        }
        Ok(())
    }

    /// Warns once per outage, drops the connection and pauses, each time for longer.
    async fn sit_out(&mut self, failure: &Failure) {
        let alias = &self.session.alias;
        if let Failure::Redis(error) = failure {
            self.session.store.suspect(error);
        }
        self.line = None;
        let begin = || {
            tracing::warn!(alias, source = ?self.source, %failure, "the agent's stream cannot be read; waiting");
            // Redis may have moved; NanoCtrl then knows where.
            self.renewal.look_soon();
        };
        self.outage.sit_out(begin).await;
    }

    fn outage_is_over(&mut self) {
        if self.outage.end() {
            tracing::info!(alias = self.session.alias, source = ?self.source, "the agent's stream can be read again");
            self.renewal.look_soon();
        }
    }
}

fn skipped(alias: &str, entry: &str, reason: &str) {
    tracing::warn!(alias, entry, reason, "skipped a malformed message");
}
