//! How an empty disk tells its broker's former life from another process under the same id. A pure decision.
//!
//! Both are in service when the disk asks to join. The former life ended before the disk began to ask, so that it is not
//! heard any more and the controller fences it after a session. What is in service for much longer, under one controller,
//! is heard all the time.

use std::time::Duration;

use streambus_protocol::epoch::BrokerEpoch;

use crate::hello::Holder;

/// Sessions after which whoever is in service is no former life.
const SESSIONS: u32 = 5;

/// For how long the broker id has been taken by one life, under one controller.
#[derive(Debug, Default)]
pub(crate) struct Occupied {
    since: Option<Since>,
}

#[derive(Debug)]
struct Since {
    epoch: BrokerEpoch,
    term: u64,
    at: Duration,
}

impl Occupied {
    /// A join was refused at `now` because of `holder`. Returns how long it has been so once that proves another process.
    pub(crate) fn taken(&mut self, holder: &Holder, now: Duration, session: Duration) -> Option<Duration> {
        // A new controller fences nobody for a session. An older term is only the word of a member that lags.
        let is_same = |since: &&Since| since.epoch == holder.epoch && since.term >= holder.term;
        let Some(since) = self.since.as_ref().filter(is_same) else {
            self.since = Some(Since { epoch: holder.epoch, term: holder.term, at: now });
            return None;
        };
        let waited = now.saturating_sub(since.at);
        (waited >= session * SESSIONS).then_some(waited)
    }

    /// Nobody said that the id is taken: there was no controller, for one.
    pub(crate) fn free(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use streambus_protocol::ids::DirectoryId;

    use super::*;

    const SESSION: Duration = Duration::from_secs(2);

    fn holder(epoch: u64, term: u64) -> Holder {
        let directory = DirectoryId::from_bytes([1; 16]);
        Holder { epoch: BrokerEpoch::new(epoch), directory, host: "h".to_owned(), port: 1, term }
    }

    /// Catches: waiting for ever for a process that is alive, and giving up on a former life that controllers, one after
    /// the other, could not fence yet.
    #[test]
    fn only_one_life_under_one_controller_for_several_sessions_is_another_process() {
        let at = Duration::from_secs;
        let mut occupied = Occupied::default();
        assert_eq!(occupied.taken(&holder(7, 1), at(1), SESSION), None);
        assert_eq!(occupied.taken(&holder(7, 1), at(10), SESSION), None);
        assert_eq!(occupied.taken(&holder(7, 0), at(11), SESSION), Some(at(10)), "a member that lags changes nothing");
        assert_eq!(occupied.taken(&holder(7, 2), at(12), SESSION), None, "another controller");
        assert_eq!(occupied.taken(&holder(8, 2), at(21), SESSION), None, "another life");
        assert_eq!(occupied.taken(&holder(8, 2), at(30), SESSION), None);
        occupied.free();
        assert_eq!(occupied.taken(&holder(8, 2), at(31), SESSION), None, "it was free in between");
        assert_eq!(occupied.taken(&holder(8, 2), at(41), SESSION), Some(at(10)));
    }
}
