//! How a starting node talks to its peers until its disk has an identity and its cluster a controller (adapter).
//!
//! What to do is decided in [`crate::founding`]; here it is asked, waited and written. Every step leaves the disk in
//! a state from which the next start goes on, so a start may be dropped at any await.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use parking_lot::Mutex;
use streambus_protocol::ids::{BrokerId, ClusterId, DirectoryId};
use tokio::time::{Instant, sleep};

use super::disk::{Content, Disk};
use crate::config::{Bootstrap, ConsensusConfig};
use crate::error::StartError;
use crate::founding::occupied::Occupied;
use crate::founding::{Census, Company, EmptyDisk, FirstFounder, LoneDisk, StartPhase};
use crate::hello::{self, Hello, HelloAnswer, Holder, Introduction, Joined, Place, Standing, Wish};
use crate::identity::Identity;
use crate::network::RaftTransport;
use crate::peer_door::PeerDoor;
use crate::rpc::{decode, encode};
use crate::types::{RaftId, RaftNode};

/// Between two rounds of questions.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// The same while a quorum is missing; nothing depends on the answers but what people are told.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long it may take to give out a Raft id.
const JOIN_TTL: Duration = Duration::from_secs(5);

/// The peers of a starting node.
pub(super) struct Neighbours {
    me: BrokerId,
    peers: BTreeMap<BrokerId, (String, u16)>,
    founders: BTreeSet<BrokerId>,
    advertised: (String, u16),
    patience: Duration,
    expected_cluster: Option<ClusterId>,
    /// Silence after which a broker is fenced.
    session: Duration,
    /// How long a peer may take to answer a question.
    question: Duration,
    transport: Arc<dyn RaftTransport>,
    door: PeerDoor,
    /// Why peers did not answer, as logged last.
    problems: Mutex<BTreeMap<BrokerId, String>>,
    began: Instant,
    company: Mutex<Company>,
}

type Answers = BTreeMap<BrokerId, Result<Introduction, String>>;

impl Neighbours {
    /// The configured peers; none for a broker that is alone.
    pub(super) fn of(
        config: &ConsensusConfig,
        transport: Arc<dyn RaftTransport>,
        door: PeerDoor,
    ) -> Result<Option<Self>, StartError> {
        let Bootstrap::Peers { peers, me, advertised, founding_patience } = &config.bootstrap else {
            return Ok(None);
        };
        if let Some(broker) = peers.keys().find(|broker| RaftId::of_founder(**broker).is_none()) {
            return Err(StartError::FounderId { broker: *broker, end: RaftId::JOINED_MIN.get() });
        }
        let founders: BTreeSet<BrokerId> = peers.keys().copied().collect();
        door.expect_founders(founders.clone());
        Ok(Some(Self {
            me: *me,
            peers: peers.clone(),
            founders,
            advertised: advertised.clone(),
            patience: *founding_patience,
            expected_cluster: config.expected_cluster,
            session: config.tuning.session,
            question: config.tuning.round_trip.question(),
            transport,
            door,
            problems: Mutex::default(),
            began: Instant::now(),
            company: Mutex::default(),
        }))
    }

    /// The first voters of the cluster.
    pub(super) fn voters(&self) -> BTreeMap<RaftId, RaftNode> {
        let node = |(broker, (host, port)): (&BrokerId, &(String, u16))| {
            let node = RaftNode { broker: *broker, host: host.clone(), port: *port };
            RaftId::of_founder(*broker).map(|id| (id, node))
        };
        self.peers.iter().filter_map(node).collect()
    }

    /// Gives the disk its identity.
    pub(super) async fn settle(
        &self,
        disk: &Disk,
        content: Content,
        mut draw: impl FnMut() -> [u8; 16],
    ) -> Result<Identity, StartError> {
        let check = |identity: &Identity| identity.check(&disk.path, self.me, self.expected_cluster, None);
        let identity = match content {
            Content::Formatted(identity) => {
                check(&identity)?;
                self.check_log(disk, &identity).await?;
                identity
            }
            Content::Formatting(identity) => {
                check(&identity)?;
                disk.format(identity).await?;
                identity
            }
            Content::Joining(identity) => {
                check(&identity)?;
                self.join(disk, identity).await?
            }
            Content::Empty => self.settle_empty(disk, &mut draw).await?,
        };
        self.door.stand(self.standing(disk, &identity)?);
        Ok(identity)
    }

    /// Refuses a disk of another cluster than the peers', and one whose log went back. Nothing is written before, and
    /// Raft does not run: a cluster of one would be its own controller at once.
    async fn check_log(&self, disk: &Disk, identity: &Identity) -> Result<(), StartError> {
        if disk.log.is_pristine().map_err(StartError::Storage)? {
            return Ok(());
        }
        if disk.members()? == [identity.raft_id] {
            self.wait_for_company(identity).await?;
        }
        self.door.stand(Standing::Member(identity.cluster_id));
        let mine = described(identity, disk.last_index());
        let answers = self.ask_all(Some(mine)).await;
        self.check_cluster(identity, &answers)?;
        for (broker, answer) in answers {
            if matches!(answer, Ok(Introduction { place: Place::LogLost, .. })) {
                return Err(StartError::LogLost { raft: identity.raft_id, last: mine.last, told_by: broker });
            }
        }
        Ok(())
    }

    /// The only node of a cluster finds out whether its peers are of it. Until then it says nothing of its disk: an
    /// empty peer would join it.
    async fn wait_for_company(&self, identity: &Identity) -> Result<(), StartError> {
        let directory = identity.cluster_id;
        let began = Instant::now();
        loop {
            let answers = self.ask_all(None).await;
            let waited = began.elapsed();
            match self.census(&standings(&answers), waited).lone_disk(directory) {
                Ok(LoneDisk::Lead) => return Ok(()),
                Ok(LoneDisk::Wait(phase)) => self.door.report(phase),
                Ok(LoneDisk::Refuse { silent }) => return Err(StartError::PeersSilent { directory, silent, waited }),
                Err(replicated) => return Err(StartError::OtherCluster { directory, replicated }),
            }
            sleep(ASK_EVERY).await;
        }
    }

    fn check_cluster(&self, identity: &Identity, answers: &Answers) -> Result<(), StartError> {
        let directory = identity.cluster_id;
        match self.census(&standings(answers), Duration::ZERO).other_cluster(directory) {
            Some(replicated) => Err(StartError::OtherCluster { directory, replicated }),
            None => Ok(()),
        }
    }

    /// What this disk is to its cluster, before its node runs.
    fn standing(&self, disk: &Disk, identity: &Identity) -> Result<Standing, StartError> {
        let cluster = identity.cluster_id;
        let pristine = disk.log.is_pristine().map_err(StartError::Storage)?;
        Ok(match identity.raft_id {
            _ if !pristine => Standing::Member(cluster),
            id if id >= RaftId::JOINED_MIN => Standing::Joining(cluster),
            _ if self.is_first_founder() => Standing::Founding(cluster),
            _ => Standing::Formatted(cluster),
        })
    }

    /// True for the broker that initialises the cluster, if nobody has.
    pub(super) fn is_first_founder(&self) -> bool {
        self.founders.first() == Some(&self.me)
    }

    async fn settle_empty(&self, disk: &Disk, draw: &mut impl FnMut() -> [u8; 16]) -> Result<Identity, StartError> {
        self.door.stand(Standing::Empty);
        let founder = loop {
            let answers = self.ask_all(None).await;
            let heard = standings(&answers);
            match self.census(&heard, self.in_company(&heard)).empty_disk()? {
                EmptyDisk::Wait(phase) => self.door.report(phase),
                EmptyDisk::Draw => break self.expected_cluster.unwrap_or_else(|| ClusterId::from_bytes(draw())),
                EmptyDisk::Adopt(cluster) | EmptyDisk::Follow(cluster) => break cluster,
                EmptyDisk::Join(cluster) => {
                    let directory = DirectoryId::from_bytes(draw());
                    return self.join(disk, disk.begin_joining(cluster, self.me, directory)?).await;
                }
            }
            sleep(ASK_EVERY).await;
        };
        let raft_id = RaftId::of_founder(self.me)
            .ok_or(StartError::FounderId { broker: self.me, end: RaftId::JOINED_MIN.get() })?;
        let directory_id = DirectoryId::from_bytes(draw());
        let identity = Identity { cluster_id: founder, broker_id: self.me, raft_id, directory_id };
        identity.check(&disk.path, self.me, self.expected_cluster, None)?;
        disk.format(identity).await?;
        Ok(identity)
    }

    /// Asks the cluster for a Raft id until it gives one, and formats the disk with it. Gives up when another process
    /// has this broker's id.
    async fn join(&self, disk: &Disk, asking: Identity) -> Result<Identity, StartError> {
        self.door.stand(Standing::Joining(asking.cluster_id));
        self.door.report(StartPhase::Joining { problem: None });
        let wish = Wish::Join {
            cluster: asking.cluster_id,
            directory: asking.directory_id,
            host: self.advertised.0.clone(),
            port: self.advertised.1,
        };
        let began = Instant::now();
        let mut occupied = Occupied::default();
        loop {
            let mut is_taken = false;
            for (broker, address) in self.others() {
                let problem = match self.ask(broker, address, None, wish.clone(), JOIN_TTL).await {
                    Ok(Introduction { standing: Standing::Member(cluster), .. }) if cluster != asking.cluster_id => {
                        return Err(StartError::OtherCluster { directory: asking.cluster_id, replicated: cluster });
                    }
                    Ok(Introduction { joined: Some(Joined::As(raft_id)), .. }) => {
                        let identity = Identity { raft_id, ..asking };
                        disk.format(identity).await?;
                        return Ok(identity);
                    }
                    Ok(Introduction { joined: Some(Joined::NotNow(reason)), .. }) => reason,
                    Ok(Introduction { joined: Some(Joined::Taken(holder)), .. }) => {
                        is_taken = true;
                        if let Some(waited) = occupied.taken(&holder, began.elapsed(), self.session) {
                            let Holder { host, port, directory, .. } = holder;
                            let address = format!("{host}:{port}");
                            return Err(StartError::BrokerIdTaken { broker: self.me, address, directory, waited });
                        }
                        let me = self.me;
                        format!(
                            "{holder} is in service as broker {me}: waiting for the end of its session, if it is gone"
                        )
                    }
                    Ok(Introduction { standing, .. }) => format!("broker {broker} is no member yet: {standing:?}"),
                    Err(reason) => reason,
                };
                self.door.report(StartPhase::Joining { problem: Some(problem) });
            }
            if !is_taken {
                occupied.free();
            }
            sleep(ASK_EVERY).await;
        }
    }

    /// The first founder waits until the others can vote; then nobody may format a founder's disk any more.
    pub(super) async fn gather(&self, identity: &Identity) -> Result<(), StartError> {
        loop {
            let answers = self.ask_all(Some(described(identity, 0))).await;
            let heard = standings(&answers);
            match self.census(&heard, self.in_company(&heard)).first_founder(identity.cluster_id)? {
                FirstFounder::Wait(phase) => self.door.report(phase),
                FirstFounder::Initialise => break,
            }
            sleep(ASK_EVERY).await;
        }
        self.door.stand(Standing::Member(identity.cluster_id));
        Ok(())
    }

    /// Says what a start without a quorum waits for, and ends when it waits in vain. Never returns otherwise.
    pub(super) async fn watch_quorum(&self, identity: &Identity) -> StartError {
        loop {
            sleep(ASK_EVERY).await;
            // The node runs: its log grows, and has been compared.
            let answers = self.ask_all(Some(described(identity, u64::MAX))).await;
            if let Err(other) = self.check_cluster(identity, &answers) {
                return other;
            }
            let mut unreachable = Vec::new();
            for (broker, answer) in answers {
                match answer {
                    Ok(Introduction { place: Place::Removed, .. }) => {
                        return StartError::Removed { raft: identity.raft_id, told_by: broker };
                    }
                    Ok(_) => {}
                    Err(_) => unreachable.push(broker),
                }
            }
            self.door.report(StartPhase::WaitingForQuorum { unreachable });
            sleep(LOOK_EVERY).await;
        }
    }

    /// For how long a majority of the founders has been there.
    fn in_company(&self, heard: &BTreeMap<BrokerId, Standing>) -> Duration {
        self.company.lock().look(self.me, &self.founders, heard, self.began.elapsed())
    }

    fn census<'a>(&'a self, heard: &'a BTreeMap<BrokerId, Standing>, waited: Duration) -> Census<'a> {
        Census { me: self.me, founders: &self.founders, heard, waited, patience: self.patience }
    }

    fn others(&self) -> impl Iterator<Item = (BrokerId, &(String, u16))> {
        self.peers.iter().filter(|(broker, _)| **broker != self.me).map(|(broker, address)| (*broker, address))
    }

    async fn ask_all(&self, disk: Option<hello::Disk>) -> Answers {
        let asked = self.others().map(|(broker, address)| async move {
            (broker, self.ask(broker, address, disk, Wish::Nothing, self.question).await)
        });
        let answers: Answers = join_all(asked).await.into_iter().collect();
        let mut problems = self.problems.lock();
        for (broker, answer) in &answers {
            match answer {
                Ok(_) => drop(problems.remove(broker)),
                Err(reason) if problems.get(broker) == Some(reason) => {}
                Err(reason) => {
                    tracing::info!(%broker, reason, "a peer does not answer");
                    problems.insert(*broker, reason.clone());
                }
            }
        }
        drop(problems);
        answers
    }

    async fn ask(
        &self,
        broker: BrokerId,
        (host, port): &(String, u16),
        disk: Option<hello::Disk>,
        wish: Wish,
        ttl: Duration,
    ) -> Result<Introduction, String> {
        let hello = Hello { from: self.me, to: broker, founders: self.founders.clone(), disk, wish };
        let sent = self.transport.hello(host.clone(), *port, Bytes::from(encode(&hello)), ttl);
        // The transport should keep to `ttl` itself; this makes sure.
        let answer = tokio::time::timeout(ttl, sent).await.map_err(|_| format!("no answer within {ttl:?}"))?;
        let answer = answer.map_err(|e| e.to_string())?;
        let introduction = decode::<HelloAnswer>(&answer).map_err(|e| format!("the answer does not decode: {e}"))??;
        if introduction.broker != broker {
            return Err(format!("broker {} answers at {host}:{port}", introduction.broker));
        }
        Ok(introduction)
    }
}

fn standings(answers: &Answers) -> BTreeMap<BrokerId, Standing> {
    answers.iter().filter_map(|(broker, answer)| answer.as_ref().ok().map(|a| (*broker, a.standing))).collect()
}

/// A disk as its hello describes it.
pub(super) fn described(identity: &Identity, last: u64) -> hello::Disk {
    hello::Disk { cluster: identity.cluster_id, raft: identity.raft_id, directory: identity.directory_id, last }
}
