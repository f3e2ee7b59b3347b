//! What a broker tells the controller several times per session, and what it hears back.
//!
//! Heartbeats never enter the log: they are the controller's own knowledge and die with its office.

use std::time::Duration;

use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::BrokerId;

use crate::controller::liveness::{BrokerDisk, Heartbeat, Wants};
use crate::encoding::{DecodeError, Decoder, Encoder};
use crate::limits::BROKERS_MAX;
use crate::rpc::{Message, read_text, write_text};

/// The controller's answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    /// True while the broker may lead nothing.
    pub fenced: bool,
    /// Where its wish to stop stands.
    pub shutdown: ShutdownProgress,
    /// True when that registration is not known: the broker must register again, or was removed.
    pub unknown_registration: bool,
    /// Who answers.
    pub controller: BrokerId,
    /// Index of the last metadata entry that it had applied.
    pub applied: u64,
    /// For how long it had not heard from a majority: until then, back from now, nobody else can have been the controller.
    pub quorum_silence: Duration,
    /// The disks of the brokers it has heard, if they were asked for.
    pub disks: Vec<BrokerDisk>,
}

/// Where a broker's wish to stop stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownProgress {
    /// It wants to serve.
    NotWanted,
    /// Its leaderships are being moved.
    Wait,
    /// Nobody needs it any more: it may stop.
    MayStop,
}

/// Why a heartbeat was not heard. It is sent again; a broker that is not heard for a session is fenced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeartbeatError {
    /// No node is known as the controller, or the one that was asked is none, or not yet.
    #[error("the cluster has no controller now")]
    NoController,
    /// The controller did not answer.
    #[error("the controller does not answer: {0}")]
    Unanswered(String),
}

/// One [`BrokerDisk`] on the wire.
const DISK_BYTES: usize = 4 + 8 + 8;

fn read_disk(input: &mut Decoder<'_>) -> Result<BrokerDisk, DecodeError> {
    Ok(BrokerDisk { broker: BrokerId::new(input.u32()?), used_bytes: input.u64()?, free_bytes: input.u64()? })
}

impl Message for Heartbeat {
    fn write(&self, out: &mut Encoder) {
        out.u32(self.broker.get());
        out.u64(self.epoch.get());
        out.u64(self.applied);
        out.u8(match self.wants {
            Wants::Serve => 0,
            Wants::ShutDown => 1,
        });
        out.u64(u64::try_from(self.unanswered.as_millis()).unwrap_or(u64::MAX));
        out.u64(self.disk_used_bytes);
        out.u64(self.disk_free_bytes);
        out.option(self.problem.as_deref(), write_text);
        out.bool(self.wants_disks);
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            broker: BrokerId::new(input.u32()?),
            epoch: BrokerEpoch::new(input.u64()?),
            applied: input.u64()?,
            wants: match input.u8()? {
                0 => Wants::Serve,
                1 => Wants::ShutDown,
                other => return Err(DecodeError::Invalid { what: "wish of a heartbeat", found: other.to_string() }),
            },
            unanswered: Duration::from_millis(input.u64()?),
            disk_used_bytes: input.u64()?,
            disk_free_bytes: input.u64()?,
            problem: input.option(read_text)?,
            wants_disks: input.bool()?,
        })
    }
}

impl Message for HeartbeatAnswer {
    fn write(&self, out: &mut Encoder) {
        out.bool(self.fenced);
        out.u8(match self.shutdown {
            ShutdownProgress::NotWanted => 0,
            ShutdownProgress::Wait => 1,
            ShutdownProgress::MayStop => 2,
        });
        out.bool(self.unknown_registration);
        out.u32(self.controller.get());
        out.u64(self.applied);
        // Rounded up: an answer must not look younger than it is.
        out.u64(u64::try_from(self.quorum_silence.as_micros().div_ceil(1000)).unwrap_or(u64::MAX));
        out.count(self.disks.len());
        for disk in &self.disks {
            out.u32(disk.broker.get());
            out.u64(disk.used_bytes);
            out.u64(disk.free_bytes);
        }
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let mut answer = Self {
            fenced: input.bool()?,
            shutdown: match input.u8()? {
                0 => ShutdownProgress::NotWanted,
                1 => ShutdownProgress::Wait,
                2 => ShutdownProgress::MayStop,
                other => return Err(DecodeError::Invalid { what: "shutdown progress", found: other.to_string() }),
            },
            unknown_registration: input.bool()?,
            controller: BrokerId::new(input.u32()?),
            applied: input.u64()?,
            quorum_silence: Duration::from_millis(input.u64()?),
            disks: Vec::new(),
        };
        let count = input.count("disks", DISK_BYTES, BROKERS_MAX)?;
        answer.disks = (0..count).map(|_| read_disk(input)).collect::<Result<_, _>>()?;
        Ok(answer)
    }
}
