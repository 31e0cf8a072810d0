//! Several services of one kind, called together.

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use serde::{Deserialize, Serialize};
use slimerpc::wire::{EncodeError, PayloadCodec};

use crate::{Call, Proxy, Reply, RpcError, Service};

/// Proxies of services of one kind at several peers, in a fixed order: a member's index is its
/// rank.
///
/// ```no_run
/// # use slimerpc_actors::{Group, PeerAgent, service};
/// # use std::time::Duration;
/// # #[derive(Default)]
/// # struct Worker;
/// # #[service]
/// # impl Worker {
/// #     #[method]
/// #     fn step(&mut self, batch: Vec<f32>) -> f32 {
/// #         batch.iter().sum()
/// #     }
/// # }
/// # async fn example(agent: PeerAgent) -> Result<(), Box<dyn std::error::Error>> {
/// let mut workers = Vec::new();
/// for rank in 0..4 {
///     workers.push(agent.proxy::<Worker>(&format!("worker:{rank}")).await?);
/// }
/// let workers = Group::new(workers)?;
///
/// // The same to all, encoded once; the replies come in the order of ranks.
/// let step = Step { batch: vec![0.5; 8] };
/// let losses = workers.broadcast(step).timeout(Duration::from_secs(1)).await?;
/// // To each its own.
/// let batches = (0..4).map(|rank| Step { batch: vec![rank as f32; 8] });
/// let losses = workers.scatter(batches)?.await?;
/// # Ok(())
/// # }
/// ```
pub struct Group<S: Service + ?Sized> {
    members: Vec<Proxy<S>>,
}

/// Why a group cannot be made or called: the mistake is in how the program uses the group, and
/// nothing was sent. [`Group::new`] and [`Group::add`] refuse members, [`Group::scatter`] refuses
/// messages. A member that fails its call is a [`MemberError`] instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// [`Group::new`] was given no members.
    #[error("a group has at least one member")]
    Empty,
    /// The service of this peer is a member already; [`Group::new`] or [`Group::add`] was given it
    /// again.
    #[error("`{service}` of `{peer}` is in the group already, with rank {rank}")]
    Duplicate {
        /// Alias of the peer.
        peer: String,
        /// Name of its service.
        service: String,
        /// Rank of the member.
        rank: usize,
    },
    /// [`Group::scatter`] was given more messages than there are members, or fewer.
    #[error("{messages} messages for {members} members")]
    Count {
        /// Number of messages.
        messages: usize,
        /// Number of members.
        members: usize,
    },
}

/// A member of a group did not answer its call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("member {rank}, `{peer}`: {error}")]
pub struct MemberError {
    /// Rank of the member.
    pub rank: usize,
    /// Alias of the member's peer.
    pub peer: String,
    /// Why the call failed.
    #[source]
    pub error: RpcError,
}

impl<S: Service + ?Sized> Group<S> {
    /// Makes a group of these members, ranked in this order.
    ///
    /// # Errors
    /// [`GroupError::Empty`] or [`GroupError::Duplicate`].
    pub fn new(members: impl IntoIterator<Item = Proxy<S>>) -> Result<Self, GroupError> {
        let mut group = Self {
            members: Vec::new(),
        };
        for member in members {
            group.add(member)?;
        }
        if group.members.is_empty() {
            return Err(GroupError::Empty);
        }
        Ok(group)
    }

    /// Adds a member with the next rank.
    ///
    /// # Errors
    /// [`GroupError::Duplicate`] if it is a member already.
    pub fn add(&mut self, member: Proxy<S>) -> Result<(), GroupError> {
        let is_same =
            |held: &Proxy<S>| held.peer() == member.peer() && held.name() == member.name();
        match self.members.iter().position(is_same) {
            Some(rank) => Err(GroupError::Duplicate {
                peer: member.peer().to_owned(),
                service: member.name().to_owned(),
                rank,
            }),
            None => {
                self.members.push(member);
                Ok(())
            }
        }
    }

    /// Removes a member; those after it move up. Returns `None` if there is no such rank, or no
    /// other member.
    pub fn remove(&mut self, rank: usize) -> Option<Proxy<S>> {
        let can_go = rank < self.members.len() && self.members.len() > 1;
        can_go.then(|| self.members.remove(rank))
    }

    /// Replaces a member and returns the old one. Returns `None` if there is no such rank.
    pub fn replace(&mut self, rank: usize, member: Proxy<S>) -> Option<Proxy<S>> {
        let place = self.members.get_mut(rank)?;
        Some(std::mem::replace(place, member))
    }

    /// The members by rank.
    pub fn members(&self) -> &[Proxy<S>] {
        &self.members
    }

    /// Returns the group with a deadline for each call made through it; see
    /// [`Proxy::with_timeout`].
    pub fn with_timeout(&self, after: Duration) -> Self {
        let members = self.members.iter().map(|member| member.with_timeout(after));
        Self {
            members: members.collect(),
        }
    }

    /// Sends the same message to all members. It is encoded once, and once more if there are
    /// DLSlime peers among them.
    pub fn broadcast<M: Call<Service = S>>(&self, message: M) -> Gather<M::Output> {
        let mut encoded: Vec<(PayloadCodec, Result<Vec<u8>, EncodeError>)> = Vec::new();
        self.each(|_, member| {
            member.send_encoded::<M>(|codec| {
                let at = encoded.iter().position(|(held, _)| *held == codec);
                let at = at.unwrap_or_else(|| {
                    encoded.push((codec, codec.encode_to_vec(&message.arguments())));
                    encoded.len() - 1
                });
                &encoded[at].1
            })
        })
    }

    /// Sends one message to each member, the first to rank 0.
    ///
    /// # Errors
    /// [`GroupError::Count`] if there is not one message for each member.
    pub fn scatter<M: Call<Service = S>>(
        &self,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<Gather<M::Output>, GroupError> {
        let messages: Vec<_> = messages.into_iter().collect();
        if messages.len() != self.members.len() {
            return Err(GroupError::Count {
                messages: messages.len(),
                members: self.members.len(),
            });
        }
        let mut messages = messages.into_iter();
        Ok(self.each(|_, member| match messages.next() {
            Some(message) => member.send(message),
            None => unreachable!("they have been counted"),
        }))
    }

    /// Makes a call at each member, given its rank: for raw methods, and other calls without a
    /// message.
    ///
    /// ```no_run
    /// # use slimerpc_actors::{Gather, Group, service};
    /// # struct Worker;
    /// # #[service]
    /// # impl Worker {
    /// #     #[method(raw)]
    /// #     fn load(&mut self, weights: &[u8]) -> [u8; 8] {
    /// #         (weights.len() as u64).to_le_bytes()
    /// #     }
    /// # }
    /// # async fn example(workers: Group<Worker>, weights: Vec<u8>) {
    /// let loaded = workers.each(|rank, worker| worker.load(&weights[rank..])).settled().await;
    /// # }
    /// ```
    pub fn each<T>(&self, mut call: impl FnMut(usize, &Proxy<S>) -> Reply<T>) -> Gather<T> {
        let members = self.members.iter().enumerate();
        let replies = members.map(|(rank, member)| (member.peer().to_owned(), call(rank, member)));
        Gather(replies.collect())
    }
}

impl<S: Service + ?Sized> fmt::Debug for Group<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.members).finish()
    }
}

/// The replies of a group, in the order of ranks. Awaiting it returns all of them, or the first
/// error; the other calls are cancelled then.
#[must_use = "calls are cancelled when their replies are dropped"]
pub struct Gather<T>(Vec<(String, Reply<T>)>);

impl<T> Gather<T> {
    /// Sets one deadline for all, counted from now.
    pub fn timeout(mut self, after: Duration) -> Self {
        for (_, reply) in &mut self.0 {
            reply.set_timeout(after);
        }
        self
    }

    /// Waits for every result, whether or not others fail.
    pub async fn settled(self) -> Vec<Result<T, MemberError>> {
        join_all(self.futures()).await
    }

    /// Returns the replies by rank.
    pub fn into_replies(self) -> Vec<Reply<T>> {
        self.0.into_iter().map(|(_, reply)| reply).collect()
    }

    fn futures(self) -> Vec<impl Future<Output = Result<T, MemberError>>> {
        let member = |(rank, (peer, reply)): (usize, (String, Reply<T>))| async move {
            reply
                .await
                .map_err(|error| MemberError { rank, peer, error })
        };
        self.0.into_iter().enumerate().map(member).collect()
    }
}

impl<T: Send + 'static> IntoFuture for Gather<T> {
    type Output = Result<Vec<T>, MemberError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(try_join_all(self.futures()))
    }
}

impl<T> fmt::Debug for Gather<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(peer, _)| peer))
            .finish()
    }
}
