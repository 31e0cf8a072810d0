//! Finds services by type, without knowing which agents serve them.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::timeout;

use crate::agent::supervisor::{FollowServices, ListServices};
use crate::discovery::service_instance::live;
use crate::{AgentError, Group, PeerAgent, Proxy, Service, ServiceChanges, ServiceInstance};

/// Minimum time given to a discovered service to answer before the next one is tried.
const LEAST_TRY: Duration = Duration::from_secs(1);

/// No live service of a type could be found, or connected with.
///
/// ```no_run
/// # use slimerpc_actors::{DiscoveryError, PeerAgent, Proxy, service};
/// # struct Calc;
/// # #[service]
/// # impl Calc {
/// #     #[method]
/// #     fn add(&mut self, a: i64, b: i64) -> i64 {
/// #         a + b
/// #     }
/// # }
/// # async fn example(agent: PeerAgent) -> Result<Option<Proxy<Calc>>, DiscoveryError> {
/// match agent.proxy_any::<Calc>().await {
///     Ok(calc) => Ok(Some(calc)),
///     Err(DiscoveryError::NoneFits { found, .. }) if found.is_empty() => Ok(None),
///     // Says what there is, and why it does not fit or cannot be reached.
///     Err(error) => Err(error),
/// }
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// No live service of the type has all the methods that this program knows.
    #[error(
        "no live service `{service}` that fits was found within {waited:?}; there {}",
        list(found)
    )]
    NoneFits {
        /// Name of the service.
        service: &'static str,
        /// Live services that do not fit; [`ServiceInstance::compatibility`] says why.
        found: Vec<ServiceInstance>,
        /// How long the agent waited for a service that fits.
        waited: Duration,
    },
    /// Services that fit exist, but none could be connected with.
    #[error("no proxy for a live service `{service}`: {}", reasons(failed))]
    Unreachable {
        /// Name of the service.
        service: &'static str,
        /// The services that were tried, each with the reason why there is no proxy for it.
        failed: Vec<(ServiceInstance, AgentError)>,
    },
    /// The control plane cannot be queried, or the agent has been shut down.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// An error that another process returned; only its text travels.
    #[error("{message}")]
    Elsewhere {
        /// Text of the original error.
        message: String,
    },
}

/// Serializes the error as text, because its fields mean nothing outside the process that made
/// them.
impl Serialize for DiscoveryError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DiscoveryError {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let message = String::deserialize(deserializer)?;
        Ok(Self::Elsewhere { message })
    }
}

fn list(found: &[ServiceInstance]) -> String {
    if found.is_empty() {
        return "is none".to_owned();
    }
    let found: Vec<_> = found.iter().map(ToString::to_string).collect();
    format!("are: {}", found.join("; "))
}

fn reasons(failed: &[(ServiceInstance, AgentError)]) -> String {
    let reasons = failed.iter().map(|(_, error)| error.to_string());
    reasons.collect::<Vec<_>>().join("; ")
}

/// # Finding services
///
/// Discovery by type finds services of native agents that accept any caller, under whatever name
/// they are served, in the agent's scope and for as long as their agent is alive. Services that are
/// served [to one peer](crate::Serve::peer) or [one request at a time](Self::serve_once) are not
/// found, because a stranger could not rely on them. An agent finds its own services like those of
/// others.
///
/// Agents on the same host no longer find the services of a process that has ended without leaving.
/// Other hosts, and watchers everywhere, notice its end when the registration expires, 60 s after
/// its last heartbeat.
impl PeerAgent {
    /// Lists the live services of type `S`, by alias and name in natural order: `worker:2` before
    /// `worker:10`. The list includes services that do not [fit](ServiceInstance::compatibility)
    /// the version of `S` in this program.
    ///
    /// ```
    /// # use slimerpc_actors::{Compatibility, PeerAgent, service};
    /// # #[derive(Default)]
    /// # struct Calc;
    /// # #[service]
    /// # impl Calc {
    /// #     #[method]
    /// #     fn add(&mut self, a: i64, b: i64) -> i64 {
    /// #         a + b
    /// #     }
    /// # }
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let worker = PeerAgent::builder().scope("doc:discover").alias("worker:0").start().await?;
    /// # let driver = PeerAgent::builder().scope("doc:discover").alias("driver:0").start().await?;
    /// worker.serve(Calc::default()).await?;
    /// worker.serve(Calc::default()).named("second").await?;
    /// let found = driver.discover::<Calc>().await?;
    /// let names: Vec<_> = found.iter().map(|it| (it.alias(), it.name())).collect();
    /// assert_eq!(names, [("worker:0", "Calc"), ("worker:0", "second")]);
    /// assert_eq!(found[0].compatibility(), &Compatibility::Full);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`AgentError::Control`]: the control plane is out of reach or keeps no entities;
    /// [`AgentError::ShutDown`].
    pub async fn discover<S: Service + ?Sized>(&self) -> Result<Vec<ServiceInstance>, AgentError> {
        Ok(live::<S>(&self.ask(ListServices).await?))
    }

    /// Follows the live services of type `S`: the stream begins with one
    /// [`Added`](crate::ServiceChange::Added) for each that is there, and then reports changes.
    /// During an outage of the control plane it waits, and afterwards reports what has changed
    /// meanwhile.
    ///
    /// ```
    /// # use slimerpc_actors::{PeerAgent, ServiceChange, service};
    /// # #[derive(Default)]
    /// # struct Calc;
    /// # #[service]
    /// # impl Calc {
    /// #     #[method]
    /// #     fn add(&mut self, a: i64, b: i64) -> i64 {
    /// #         a + b
    /// #     }
    /// # }
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let worker = PeerAgent::builder().scope("doc:watch").alias("worker:0").start().await?;
    /// # let driver = PeerAgent::builder().scope("doc:watch").alias("driver:0").start().await?;
    /// let mut changes = driver.watch_services::<Calc>().await?;
    /// let served = worker.serve(Calc::default()).await?;
    /// let added = changes.next().await;
    /// assert!(matches!(added, Some(ServiceChange::Added(it)) if it.alias() == "worker:0"));
    /// served.stop().await?;
    /// assert!(matches!(changes.next().await, Some(ServiceChange::Removed(_))));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`AgentError::ShutDown`] if the agent has been shut down.
    pub async fn watch_services<S: Service + ?Sized>(&self) -> Result<ServiceChanges, AgentError> {
        Ok(ServiceChanges::new::<S>(self.ask(FollowServices).await?))
    }

    /// Returns a proxy for one live service of type `S` that has all its methods. The choice is
    /// random, so callers spread over the services without talking to each other; services on this
    /// host, which are reached through shared memory, come before those elsewhere. A service that
    /// does not answer is skipped.
    ///
    /// The call waits up to the connect timeout for a service to appear.
    ///
    /// ```
    /// # use slimerpc_actors::{PeerAgent, service};
    /// # #[derive(Default)]
    /// # struct Calc;
    /// # #[service]
    /// # impl Calc {
    /// #     #[method]
    /// #     fn add(&mut self, a: i64, b: i64) -> i64 {
    /// #         a + b
    /// #     }
    /// # }
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let worker = PeerAgent::builder().scope("doc:any").start().await?;
    /// # worker.serve(Calc::default()).await?;
    /// # let driver = PeerAgent::builder().scope("doc:any").alias("driver:0").start().await?;
    /// let calc = driver.proxy_any::<Calc>().await?;
    /// assert_eq!(calc.add(1, 2).await?, 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`DiscoveryError::NoneFits`], [`DiscoveryError::Unreachable`], or an error of
    /// [`discover`](Self::discover).
    pub async fn proxy_any<S: Service + ?Sized>(&self) -> Result<Proxy<S>, DiscoveryError> {
        let (started, limit) = (Instant::now(), self.connect_timeout());
        let mut candidates = self.find_some::<S>(started).await?;
        fastrand::shuffle(&mut candidates);
        candidates.sort_by_key(|it| !it.is_on_this_host());
        let mut failed = Vec::new();
        for (tried, service) in (0..).zip(&candidates) {
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() && tried > 0 {
                break;
            }
            let share = left / (candidates.len() as u32 - tried);
            let share = share.max(LEAST_TRY).min(left);
            match self
                .proxy_within(service.alias(), service.name(), share)
                .await
            {
                Ok(proxy) => return Ok(proxy),
                Err(AgentError::ShutDown) => return Err(AgentError::ShutDown.into()),
                Err(error) => {
                    tracing::info!(%service, %error, "a discovered service is skipped");
                    failed.push((service.clone(), error));
                }
            }
        }
        let service = S::NAME;
        Err(DiscoveryError::Unreachable { service, failed })
    }

    /// Returns a group of all live services of type `S` that have all its methods, ranked by alias
    /// and name in natural order. Services that do not fit are left out;
    /// [`discover`](Self::discover) lists them.
    ///
    /// The call does not wait for services to appear, because it cannot know how many to expect;
    /// [`watch_services`](Self::watch_services) can. [`Group::add`] adds services that come later.
    ///
    /// ```
    /// # use slimerpc_actors::{PeerAgent, service};
    /// # #[derive(Default)]
    /// # struct Calc;
    /// # #[service]
    /// # impl Calc {
    /// #     #[method]
    /// #     fn add(&mut self, a: i64, b: i64) -> i64 {
    /// #         a + b
    /// #     }
    /// # }
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut workers = Vec::new();
    /// # for rank in 0..2 {
    /// #     let builder = PeerAgent::builder().scope("doc:group").alias(format!("worker:{rank}"));
    /// #     let worker = builder.start().await?;
    /// #     worker.serve(Calc::default()).await?;
    /// #     workers.push(worker);
    /// # }
    /// # let driver = PeerAgent::builder().scope("doc:group").alias("driver:0").start().await?;
    /// let calcs = driver.group_of::<Calc>().await?;
    /// assert_eq!(calcs.members()[1].peer(), "worker:1");
    /// assert_eq!(calcs.broadcast(Add { a: 1, b: 2 }).await?, [3, 3]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`DiscoveryError::NoneFits`], [`DiscoveryError::Unreachable`] if there is no proxy for one
    /// of the services, or an error of [`discover`](Self::discover).
    pub async fn group_of<S: Service + ?Sized>(&self) -> Result<Group<S>, DiscoveryError> {
        let service = S::NAME;
        let (members, others): (Vec<_>, Vec<_>) = self
            .discover::<S>()
            .await?
            .into_iter()
            .partition(ServiceInstance::is_full);
        if members.is_empty() {
            return Err(DiscoveryError::NoneFits {
                service,
                found: others,
                waited: Duration::ZERO,
            });
        }
        for other in others {
            tracing::warn!(%other, "a service that does not fit is left out of a group");
        }
        let limit = self.connect_timeout();
        let proxies = members
            .iter()
            .map(|it| self.proxy_within(it.alias(), it.name(), limit));
        let (mut ranked, mut failed) = (Vec::new(), Vec::new());
        for (result, member) in join_all(proxies).await.into_iter().zip(&members) {
            match result {
                Ok(proxy) => ranked.push(proxy),
                Err(error) => failed.push((member.clone(), error)),
            }
        }
        if !failed.is_empty() {
            return Err(DiscoveryError::Unreachable { service, failed });
        }
        Ok(Group::new(ranked).expect("there are some, and no two have the same alias and name"))
    }

    /// Waits for live services that fit, and returns them once there is at least one.
    async fn find_some<S: Service + ?Sized>(
        &self,
        started: Instant,
    ) -> Result<Vec<ServiceInstance>, DiscoveryError> {
        let mut found = self.discover::<S>().await?;
        if !found.iter().any(ServiceInstance::is_full) {
            let mut following = self.ask(FollowServices).await?;
            let coming = async {
                while !found.iter().any(ServiceInstance::is_full) {
                    following
                        .changed()
                        .await
                        .map_err(|_| AgentError::ShutDown)?;
                    if let Some(registered) = following.borrow_and_update().clone() {
                        found = live::<S>(&registered);
                    }
                }
                Ok::<_, AgentError>(())
            };
            let left = self.connect_timeout().saturating_sub(started.elapsed());
            if let Ok(ended) = timeout(left, coming).await {
                ended?;
            }
        }
        if !found.iter().any(ServiceInstance::is_full) {
            return Err(DiscoveryError::NoneFits {
                service: S::NAME,
                found,
                waited: started.elapsed(),
            });
        }
        found.retain(ServiceInstance::is_full);
        Ok(found)
    }
}
