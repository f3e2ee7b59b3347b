//! The `streambus` binary from outside: help, exit codes, and commands against a broker that is a process too.

mod cluster;
mod exit_codes;
mod following;
mod founding;
mod help;
mod process;
mod reload;
mod round_trip;
mod verify;
