//! Whether this broker has heard the controller recently enough to answer for what it leads.
//!
//! A broker that is cut off from the controller, or whose process was stopped for a while, is fenced after a session and
//! learns nothing of it. It may go on as leader only until a session after a moment at which it certainly was one: when
//! it sent a heartbeat that a controller with a majority behind it answered, and whose answer it has since acted on, which
//! means that it has given up every leadership that had ended by then. Asked at every request, so that no task has to run
//! first.
//!
//! It bounds how old an answer may be. It is no lease: what is acknowledged rests on epochs and the in-sync set alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use streambus_consensus::heartbeat::HeartbeatAnswer;
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::error_code::ErrorCode;
use streambus_storage::clock::Clock;

use crate::partition::Partition;

/// A broker's contact with the controller. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Contact {
    /// None for a broker without peers: it is its own controller.
    session: Option<Arc<Session>>,
}

#[derive(Debug)]
struct Session {
    clock: Arc<dyn Clock>,
    length: Duration,
    /// When this broker last was what the metadata said, in milliseconds of the monotonic clock, rounded down.
    good_ms: AtomicU64,
}

impl Contact {
    /// That of a broker without peers, which is never lost.
    pub fn alone() -> Self {
        Self { session: None }
    }

    /// That of a broker that is registered now and fenced after a silence of `session`.
    pub fn new(clock: Arc<dyn Clock>, session: Duration) -> Self {
        let good_ms = AtomicU64::new(millis(clock.monotonic()));
        Self { session: Some(Arc::new(Session { clock, length: session, good_ms })) }
    }

    /// This broker was what the metadata said at `at`.
    fn was_good(&self, at: Duration) {
        if let Some(session) = &self.session {
            // Nothing else is published by it.
            session.good_ms.fetch_max(millis(at), Ordering::Relaxed);
        }
    }

    /// True once the controller may have made another broker the leader of what this one leads.
    pub fn is_lost(&self) -> bool {
        self.lost_for().is_some()
    }

    /// How long there has been none, once it is lost.
    pub fn lost_for(&self) -> Option<Duration> {
        let session = self.session.as_ref()?;
        let good = Duration::from_millis(session.good_ms.load(Ordering::Relaxed));
        let silence = session.clock.monotonic().saturating_sub(good);
        (silence >= session.length).then_some(silence)
    }

    /// What a client is told that takes this broker for the leader of `partition` while contact is lost. Who leads is not
    /// known here.
    pub fn refusal(&self, partition: &Partition) -> ErrorBody {
        let session = self.session.as_ref().map_or(Duration::ZERO, |session| session.length);
        ErrorBody::new(
            ErrorCode::NotLeader,
            format!(
                "this broker has had no contact with the controller for {session:?} (cluster.session_timeout), so another \
                 may lead partition {} of '{}' by now: ask another broker for the metadata; if none answers, see that most \
                 brokers run and reach one another",
                partition.id().partition,
                partition.topic()
            ),
        )
    }
}

/// The answer to a heartbeat that has not been acted on yet. The oldest is kept until it is: newer ones may ask for more
/// all the time.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    waiting: Option<(Duration, u64)>,
}

impl Unsettled {
    /// A heartbeat sent at `sent` was answered. A fenced broker leads nothing, and a life that is not known does neither.
    pub(crate) fn note(&mut self, sent: Duration, answer: &HeartbeatAnswer) {
        if !answer.fenced && !answer.unknown_registration {
            // The one who answered may itself have been out of office for as long as no majority answered it.
            self.waiting.get_or_insert((sent.saturating_sub(answer.quorum_silence), answer.applied));
        }
    }

    /// The index that must be acted on before contact is renewed.
    pub(crate) fn wants(&self) -> Option<u64> {
        self.waiting.map(|(_, index)| index)
    }

    /// Renews `contact` if everything up to `acted_on` is what the answer asked for.
    pub(crate) fn settle(&mut self, acted_on: u64, contact: &Contact) {
        if let Some((good, _)) = self.waiting.take_if(|(_, index)| acted_on >= *index) {
            contact.was_good(good);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use streambus_consensus::heartbeat::ShutdownProgress;
    use streambus_protocol::ids::BrokerId;
    use streambus_protocol::timestamp::Timestamp;
    use streambus_protocol::topic_config::Durability;
    use streambus_storage::clock::ManualClock;
    use streambus_storage::config::StoreConfig;

    use super::*;
    use crate::partition::fixture;

    const SESSION: Duration = Duration::from_secs(3);
    const TICK: Duration = Duration::from_millis(1);

    fn contact() -> (Arc<ManualClock>, Contact) {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(10)));
        let contact = Contact::new(Arc::clone(&clock) as Arc<dyn Clock>, SESSION);
        (clock, contact)
    }

    fn answer(applied: u64) -> HeartbeatAnswer {
        HeartbeatAnswer {
            fenced: false,
            shutdown: ShutdownProgress::NotWanted,
            unknown_registration: false,
            controller: BrokerId::new(2),
            applied,
            quorum_silence: Duration::ZERO,
            disks: Vec::new(),
        }
    }

    // Catches a leader that is cut off or was stopped and goes on for ever, one that needs a task to notice it, and one
    // that counts from the answer instead of the question.
    #[test]
    fn contact_is_lost_a_session_after_the_last_answered_heartbeat_was_sent() {
        let (clock, contact) = contact();
        assert!(!contact.is_lost(), "a registration is contact");
        clock.advance(SESSION - TICK);
        assert!(!contact.is_lost());
        let (sent, mut unsettled) = (clock.monotonic(), Unsettled::default());
        clock.advance(TICK);
        assert!(contact.is_lost());
        unsettled.note(sent, &answer(5));
        unsettled.settle(5, &contact);
        assert!(!contact.is_lost());
        clock.advance(SESSION - TICK - TICK);
        assert!(!contact.is_lost());
        clock.advance(TICK);
        assert!(contact.is_lost(), "a session after it was sent");
        unsettled.note(Duration::ZERO, &answer(5));
        unsettled.settle(5, &contact);
        assert!(contact.is_lost(), "an old answer proves nothing new");
        let store = fixture::store(StoreConfig::default());
        let refusal = contact.refusal(&fixture::partition(&store, 0, Durability::Sync));
        assert_eq!((refusal.code, refusal.leader), (ErrorCode::NotLeader, None));
        assert!(
            refusal.message.contains("partition 0 of 't'") && refusal.message.contains("3s"),
            "{}",
            refusal.message
        );
    }

    // Catches a process that goes on after a stop and serves what the image from before it says it leads; and one that
    // waits for ever because the metadata never stands still.
    #[test]
    fn contact_is_renewed_once_the_answer_was_acted_on() {
        let (clock, contact) = contact();
        clock.advance(SESSION * 2);
        let mut unsettled = Unsettled::default();
        unsettled.note(clock.monotonic(), &answer(7));
        assert_eq!(unsettled.wants(), Some(7));
        unsettled.settle(6, &contact);
        assert!(contact.is_lost(), "the entry that ended its leadership may be the seventh");
        clock.advance(TICK);
        unsettled.note(clock.monotonic(), &answer(8));
        unsettled.settle(7, &contact);
        assert!(!contact.is_lost());
        assert_eq!(unsettled.wants(), None);
    }

    // Catches a controller that was succeeded without knowing it and keeps old leaders in office, among them itself.
    #[test]
    fn an_answer_is_as_old_as_the_majority_behind_it() {
        let (clock, contact) = contact();
        clock.advance(SESSION);
        let mut unsettled = Unsettled::default();
        let cut_off = HeartbeatAnswer { quorum_silence: SESSION, ..answer(1) };
        unsettled.note(clock.monotonic(), &cut_off);
        unsettled.settle(1, &contact);
        assert!(contact.is_lost());
        unsettled.note(clock.monotonic(), &HeartbeatAnswer { fenced: true, ..answer(1) });
        unsettled.note(clock.monotonic(), &HeartbeatAnswer { unknown_registration: true, ..answer(1) });
        unsettled.settle(1, &contact);
        assert!(contact.is_lost(), "neither leads anything");
    }

    #[test]
    fn broker_without_peers_never_loses_contact() {
        assert!(!Contact::alone().is_lost());
    }
}
