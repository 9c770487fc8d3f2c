//! The frames of a server (RFC 6455, §5.2): whole messages, never masked.

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// The most bytes of a control frame's payload (§5.5); two of a close frame's are its code.
const MAX_CONTROL_BYTES: usize = 125;

/// Appends a message of text.
pub fn write_text(text: &[u8], wire: &mut Vec<u8>) {
    write(OpCode::Data(Data::Text), text, wire);
}

/// Appends a message of bytes.
pub fn write_binary(bytes: &[u8], wire: &mut Vec<u8>) {
    write(OpCode::Data(Data::Binary), bytes, wire);
}

/// Appends a ping without payload.
pub(crate) fn write_ping(wire: &mut Vec<u8>) {
    write(OpCode::Control(Control::Ping), b"", wire);
}

/// A close frame (§5.5.1). A reason longer than 123 bytes is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CloseFrame<'a> {
    pub(crate) code: CloseCode,
    pub(crate) reason: &'a str,
}

/// Appends a close frame.
pub(crate) fn write_close(CloseFrame { code, reason }: CloseFrame<'_>, wire: &mut Vec<u8>) {
    let reason = &reason[..reason.floor_char_boundary(MAX_CONTROL_BYTES - 2)];
    write(OpCode::Control(Control::Close), &[&u16::from(code).to_be_bytes(), reason.as_bytes()].concat(), wire);
}

fn write(opcode: OpCode, payload: &[u8], wire: &mut Vec<u8>) {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    // Writing to a vector cannot fail.
    let _ = header.format(payload.len() as u64, wire);
    wire.extend_from_slice(payload);
}
