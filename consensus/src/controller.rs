//! What the controller decides beyond the answers to commands: who is alive, who should lead, what a drain does next,
//! and which disks vote. Pure: images, times and reports in, commands out. Every command names the epochs it was
//! decided on, so that a controller that is out of date proposes nothing that could apply.

pub mod drain;
pub mod liveness;
pub mod membership_plan;
pub mod preferred;
