//! The node: alone, and several of them over a network with faults.

mod alone;
mod cluster;
mod faults;
mod founding;
mod joining;
mod learning;
mod office;
mod reads;
