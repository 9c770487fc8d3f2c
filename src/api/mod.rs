//! Wire contracts: each module has the routes of one, on top of the engine and the store.

pub mod contracts;
pub mod emojitracker;
pub mod mercure;
pub mod native;
pub mod presence_events;
pub mod push;
pub mod realtime;
pub(crate) mod refusal;
pub(crate) mod request;
pub mod send_multiple;
pub mod session_streams;
pub mod unifrost;
pub mod ws_hub;
