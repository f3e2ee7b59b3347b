//! The client: one handle for everything, usable as soon as it exists.

use std::fmt;
use std::sync::Arc;

use streambus_protocol::ids::ClusterId;

use crate::admin::Admin;
use crate::config::Config;
use crate::consumer::ConsumerBuilder;
use crate::context::Ctx;
use crate::engine::Engine;
use crate::environment::Environment;
use crate::error::Error;
use crate::producer::{Producer, ProducerConfig};
use crate::tasks::StopOnDrop;

/// A connection to a cluster. Cheap to clone; clones share connections and what is known about the cluster.
///
/// When the last handle (client, producer, consumer, admin) is dropped, connections are closed.
#[derive(Clone)]
pub struct Client {
    engine: Arc<Engine>,
    alive: Arc<StopOnDrop>,
    ctx: Ctx,
}

impl Client {
    /// Connects to the cluster that has a broker at `address` (`host:port`, several separated by commas), with the
    /// defaults of [`Config`].
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when no address answers, [`Error::Invalid`] when one is no address.
    pub async fn connect(address: &str) -> Result<Self, Error> {
        Self::connect_with(Config::new(address.split(',').map(str::trim))).await
    }

    /// Connects as `config` says. Every configured address is tried once; any one that answers suffices.
    ///
    /// Dropped before it is done, it leaves nothing behind.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when no address answers, [`Error::Invalid`] when a setting is out of range.
    pub async fn connect_with(config: Config) -> Result<Self, Error> {
        Self::connect_in(config, Environment::system()).await
    }

    /// Connects with transports, clock and randomness of the caller's: for tests and simulations.
    ///
    /// # Errors
    ///
    /// As [`Client::connect_with`].
    pub async fn connect_in(config: Config, environment: Environment) -> Result<Self, Error> {
        config.check()?;
        let engine = Arc::new(Engine::new(config, environment));
        let alive = Arc::new(StopOnDrop(engine.tasks.clone()));
        engine.metadata.newer_than(0).await?;
        Ok(Self { engine, alive, ctx: Ctx::background() })
    }

    /// The same client, every call of which obeys `ctx`; so do the producers, consumers and admins it makes.
    pub fn with(&self, ctx: &Ctx) -> Self {
        Self { ctx: self.ctx.narrowed_by(ctx), ..self.clone() }
    }

    /// A producer with the defaults of [`ProducerConfig`]: durable, idempotent, no linger.
    pub fn producer(&self) -> Producer {
        Producer::start(self, ProducerConfig::default())
    }

    /// A producer with other settings.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when a setting is out of range.
    pub fn producer_with(&self, config: ProducerConfig) -> Result<Producer, Error> {
        config.check()?;
        Ok(Producer::start(self, config))
    }

    /// A reader of `topics`, to be told where to begin and then started.
    pub fn consumer<I>(&self, topics: I) -> ConsumerBuilder
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        ConsumerBuilder::new(self.clone(), topics.into_iter().map(Into::into).collect())
    }

    /// Topics, offsets and the cluster's state.
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// The cluster this client is connected to.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.engine.pool.cluster()
    }

    /// Ends every connection and background task of this client and its clones, producers and consumers, and waits until
    /// they have ended. Records that are not acknowledged fail; [`Producer::close`] the producers first.
    pub async fn close(self) {
        self.engine.tasks.stop();
        self.engine.tasks.ended().await;
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub(crate) fn context(&self) -> &Ctx {
        &self.ctx
    }

    /// Keeps the client's tasks running for as long as it is held.
    pub(crate) fn keep_alive(&self) -> Arc<StopOnDrop> {
        Arc::clone(&self.alive)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("cluster", &self.cluster_id()).field("ctx", &self.ctx).finish_non_exhaustive()
    }
}
