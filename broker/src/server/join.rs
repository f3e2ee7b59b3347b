//! Taking part: claiming the data directory, registering, following the metadata, being let into service.

use std::sync::Arc;
use std::time::Duration;

use streambus_consensus::blocking;
use streambus_consensus::command::Command;
use streambus_consensus::controller::liveness::Wants;
use streambus_consensus::error::ProposeError;
use streambus_consensus::heartbeat::{HeartbeatAnswer, ShutdownProgress};
use streambus_consensus::image::ClusterImage;
use streambus_consensus::node::MetadataNode;
use streambus_consensus::outcome::RefusedReason;
use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::{BrokerId, DirectoryId};
use streambus_storage::store::Store;
use tokio::sync::watch;
use tokio::time::Instant;

use super::StartError;
use super::start::Parts;
use crate::clock::Deadline;
use crate::cluster::contact::Contact;
use crate::cluster::disks::ClusterDisks;
use crate::cluster::heartbeat::{self, Heartbeats};
use crate::lifecycle::{Component, Problem};
use crate::partition::discard::{self, StrayDesk};
use crate::partition::reconcile::Reconciler;
use crate::partition::registry::Registry;
use crate::replication::engine::Engine;
use crate::replication::metadata_authority::MetadataAuthority;
use crate::replication::registration::Registration;
use crate::replication::settings::ReplicationSettings;
use crate::service::reader::ReadBudget;
use crate::tasks::{follow_metadata, follow_peers, watch_replicas, watch_strays};

/// Bytes that reads from disk for followers may hold. Their own: a consumer that is slow must not hold up commits.
const FOLLOWER_READ_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Between attempts to register.
const REGISTER_PAUSE: Duration = Duration::from_millis(200);
/// Sessions that a former life under the same broker id may still last.
const FORMER_LIFE_SESSIONS: u32 = 3;
/// How long handing over what this broker leads may take before it stops without.
const LEAVE_PATIENCE: Duration = Duration::from_secs(10);
/// How long handing over the controller's office may take.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(2);

/// This broker's place among others, to be given up before it stops.
#[derive(Debug)]
pub(super) struct Place {
    /// Silence after which nobody is there to hand over to.
    session: Duration,
    wants: watch::Sender<Wants>,
    answers: watch::Receiver<Option<HeartbeatAnswer>>,
    contact: Contact,
    disks: ClusterDisks,
}

/// What taking part has brought.
#[derive(Debug)]
pub(super) struct Joined {
    /// None for a broker on its own.
    pub(super) place: Option<Place>,
    /// Where operators ask about logs in quarantine.
    pub(super) strays: StrayDesk,
}

impl Place {
    /// This broker's contact with the controller.
    pub(super) fn contact(&self) -> Contact {
        self.contact.clone()
    }

    /// What is known of the brokers' disks.
    pub(super) fn disks(&self) -> ClusterDisks {
        self.disks.clone()
    }

    /// Hands over everything that this broker leads, and the controller's office if it has it. Without metadata there is
    /// nothing to wait for: the controller lets a broker stop that has seen others take over, which this one never will.
    pub(super) async fn leave(&self, metadata: &MetadataNode, grace: Duration) {
        self.wants.send_replace(Wants::ShutDown);
        let may_stop = tokio::select! {
            biased;
            reason = metadata.stopped() => {
                tracing::warn!(reason, "stopping without handing over: others take over when they notice");
                return;
            }
            may_stop = Deadline::after(grace.min(LEAVE_PATIENCE)).limit(self.may_stop()) => may_stop,
        };
        match may_stop {
            Some(true) => tracing::info!("others lead what this broker led"),
            Some(false) => {
                // Without a quorum nobody could take the controller's office either.
                tracing::warn!("no controller answers: stopping without handing over");
                return;
            }
            None => tracing::warn!("stopping before others lead what this broker led: they take over when they notice"),
        }
        if metadata.status().is_leader {
            match metadata.transfer_controller(TRANSFER_PATIENCE).await {
                Ok(to) => tracing::info!(broker = %to, "handed the controller's office over"),
                Err(error) => tracing::info!(%error, "the controller's office was not handed over"),
            }
        }
    }
}

impl Place {
    /// Waits until the controller says that this broker may stop; false when no controller answers any more.
    async fn may_stop(&self) -> bool {
        let mut answers = self.answers.clone();
        loop {
            let heard = answers.borrow_and_update().as_ref().map(|answer| answer.shutdown);
            if heard == Some(ShutdownProgress::MayStop) {
                return true;
            }
            // Every answer counts as a change, the same one too.
            match tokio::time::timeout(self.session, answers.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return false,
            }
        }
    }
}

impl Parts {
    /// Opens what the metadata places here and enters this broker into service.
    pub(super) async fn join(
        &self,
        store: &Store,
        is_intact: bool,
        metadata: &MetadataNode,
        registry: &Arc<Registry>,
    ) -> Result<Joined, StartError> {
        let broker = self.config.broker.id;
        let (claimed, cluster) = (store.clone(), metadata.identity().cluster_id);
        let claim = blocking::spawn(move || claimed.claim(broker, cluster));
        claim
            .await
            .map_err(|_| StartError::Interrupted("the data directory was claimed"))?
            .map_err(StartError::Claim)?;
        let disk = (store.status().directory, is_intact);
        if let Some(peers) = &self.peers {
            // Before it registers: the configuration may say already where the controller will be from its next start on.
            let (book, stop) = (peers.pool.book().clone(), self.tokens.stop.clone());
            self.background.spawn(follow_peers::run(book, metadata.watch(), stop));
        }
        let engine = Engine::new(
            Arc::clone(registry),
            Registration::new(broker),
            Arc::clone(&self.env.clock),
            ReplicationSettings::from(&self.config.replication),
            ReadBudget::new(FOLLOWER_READ_BYTES_MAX),
        );
        let epoch = self.register(metadata, disk).await?;
        if self.peers.is_none() {
            // A registration is fenced until its broker is known to follow the metadata. Alone, it is its own
            // controller, and follows itself.
            metadata.propose(Command::UnfenceBroker { broker, epoch }).await?;
        }
        let is_alone = self.peers.is_none();
        let registered = reached(metadata, broker, epoch, |fenced| !(fenced && is_alone)).await?;
        let clock = Arc::clone(&self.env.clock);
        let mut reconciler = Reconciler::new(engine.owner(), epoch, store.clone(), Arc::clone(registry), clock);
        reconciler.reach(registered).await?;
        let stop = || self.tokens.stop.clone();
        let quarantine = reconciler.quarantine();
        self.background.spawn(watch_strays::run(quarantine.watch(), self.lifecycle.clone(), stop()));
        self.metrics.attach_strays(move || watch_strays::snapshot(&quarantine.watch().borrow()));
        let (images, confirming) = (metadata.watch(), metadata.clone());
        let confirm = move || {
            let metadata = confirming.clone();
            async move { metadata.read_index().await.ok().map(|_| metadata.image()) }
        };
        let (strays, asked) = discard::desk(reconciler.quarantine());
        let following = follow_metadata::run(reconciler, images, confirm, asked, self.lifecycle.clone(), stop());
        self.background.spawn(following);
        let Some(peers) = &self.peers else { return Ok(Joined { place: None, strays }) };

        peers.local.registered(epoch);
        engine.registration().set(epoch);
        let service = engine.service();
        self.metrics.attach_catch_up(move || service.catch_up());
        peers.door.attach_replicas(Arc::new(engine.service()));
        let authority = Arc::new(MetadataAuthority::new(broker, metadata.clone()));
        engine.start(Arc::new(peers.pool.clone()), authority, &self.background, &self.tokens.stop);
        let (repairs, lifecycle) = (engine.repairs(), self.lifecycle.clone());
        self.background.spawn(watch_replicas::run(Arc::clone(registry), repairs, store.clone(), lifecycle, stop()));
        let (wants, wanted) = watch::channel(Wants::Serve);
        let (answered, answers) = watch::channel(None);
        let session = self.config.cluster.session_timeout;
        let disks = ClusterDisks::default();
        let contact = Contact::new(Arc::clone(&self.env.clock), session);
        let heartbeats = Heartbeats {
            metadata: metadata.clone(),
            disk,
            local: peers.local.clone(),
            replication: engine.registration().clone(),
            store: store.clone(),
            lifecycle: self.lifecycle.clone(),
            clock: Arc::clone(&self.env.clock),
            interval: self.config.cluster.heartbeat_interval,
            session,
            contact: contact.clone(),
            disks: disks.clone(),
            partitions: Arc::clone(registry),
            wants: wanted,
            answers: answered,
        };
        self.background.spawn(heartbeat::run(heartbeats, epoch, stop()));
        reached(metadata, broker, epoch, |fenced| !fenced).await?;
        Ok(Joined { place: Some(Place { session, wants, answers, contact, disks }), strays })
    }

    /// Registers this life. With peers it is tried until it succeeds: a cluster without a quorum gets one, and a former
    /// life with another disk is fenced after its session.
    async fn register(
        &self,
        metadata: &MetadataNode,
        (directory, is_intact): (DirectoryId, bool),
    ) -> Result<BrokerEpoch, StartError> {
        let patience = self.config.cluster.session_timeout * FORMER_LIFE_SESSIONS;
        let former_life_until = Instant::now() + patience;
        loop {
            let error = match metadata.register_disk(directory, is_intact).await {
                Ok(epoch) => {
                    self.lifecycle.clear(Component::Cluster);
                    return Ok(epoch);
                }
                Err(error) => error,
            };
            let is_passing = match &error {
                ProposeError::Refused(RefusedReason::DuplicateBroker { .. }) => Instant::now() < former_life_until,
                ProposeError::Refused(_) => false,
                // Registering is idempotent, so an unknown outcome is tried again like none.
                ProposeError::NotApplied(_) | ProposeError::Unknown(_) => true,
            };
            if self.peers.is_none() || !is_passing {
                return Err(error.into());
            }
            let message = format!("registering: {error}");
            tracing::info!(waiting = message, "starting");
            self.lifecycle.report(Problem { component: Component::Cluster, message, blocks_ready: true });
            tokio::time::sleep(REGISTER_PAUSE).await;
        }
    }
}

/// Waits for an image in which this life stands as `accepts` wants it, given whether it is fenced.
async fn reached(
    metadata: &MetadataNode,
    broker: BrokerId,
    epoch: BrokerEpoch,
    accepts: impl Fn(bool) -> bool,
) -> Result<Arc<ClusterImage>, StartError> {
    let mut images = metadata.watch();
    let is_there = |image: &Arc<ClusterImage>| {
        image.brokers.get(&broker).is_some_and(|broker| broker.epoch >= epoch && accepts(broker.fenced))
    };
    let image = images.wait_for(is_there).await.map(|image| Arc::clone(&image));
    image.map_err(|_| StartError::Interrupted("this broker registered"))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use streambus_consensus::config::ConsensusConfig;
    use streambus_consensus::database::{DatabaseSource, MemoryDatabase};
    use streambus_consensus::node::ConsensusEnv;
    use streambus_protocol::api::metadata::BrokerEndpoint;

    use super::*;

    // Catches a broker whose metadata has failed and that waits, before it ends, for an answer that it cannot get.
    #[tokio::test]
    async fn without_metadata_there_is_nobody_to_hand_over_to() {
        let me = BrokerId::new(1);
        let directory = tempfile::tempdir().expect("a directory");
        let endpoint = BrokerEndpoint { id: me, host: "h".to_owned(), port: 1, rack: None };
        let config = ConsensusConfig::alone(directory.path().to_path_buf(), endpoint);
        let database = DatabaseSource::Memory(MemoryDatabase::new(|| Duration::ZERO));
        let env = ConsensusEnv { database, ..ConsensusEnv::alone(me, || [7; 16]) };
        let metadata = MetadataNode::start(config, env).await.expect("a node");
        metadata.shutdown().await;
        let (wants, wanted) = watch::channel(Wants::Serve);
        let (_answered, answers) = watch::channel(None);
        let session = Duration::from_secs(3_600);
        let place = Place { session, wants, answers, contact: Contact::alone(), disks: ClusterDisks::default() };
        let left = place.leave(&metadata, session).now_or_never();
        assert_eq!(left, Some(()), "it waits for a controller");
        assert_eq!(*wanted.borrow(), Wants::ShutDown, "it has said so all the same");
    }
}
