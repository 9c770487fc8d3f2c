//! Selected cases of the Autobahn testsuite, under their original numbers, against the echo example, which uses the
//! server's WebSocket code. `docs/measurements.md` has the results of the complete suite.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::support::{LIMIT, block_on, upgrade};

#[expect(dead_code, reason = "the tests call its functions, not its main")]
#[path = "../../examples/websocket_echo.rs"]
mod websocket_echo;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// The FIN bit of the first byte of a frame.
const FIN: u8 = 0x80;

/// Starts the echo server and returns its address. It ends with the test process.
fn start() -> SocketAddr {
    let (sender, address) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        block_on(async {
            let listener = tallycast_server::listen(SocketAddr::from(([127, 0, 0, 1], 0)), 64 * 1024).unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            websocket_echo::serve(listener).await.unwrap();
        });
    });
    address.recv_timeout(LIMIT).unwrap()
}

/// A client frame: first byte and masked payload.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first];
    match payload.len() {
        length @ ..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
        length @ 126..65536 => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A close frame with a code and a reason.
fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// A message fragmented into frames of at most `size` bytes.
fn fragments(opcode: u8, payload: &[u8], size: usize) -> Vec<Vec<u8>> {
    let count = payload.len().div_ceil(size);
    let first = |place| (if place == 0 { opcode } else { CONTINUATION }) | (if place + 1 == count { FIN } else { 0 });
    payload.chunks(size).enumerate().map(|(place, part)| frame(first(place), part)).collect()
}

/// Received frames: opcode and payload. The payload of a close frame is reduced to its code.
type Frames = Vec<(u8, Vec<u8>)>;

/// Sends `bytes` in pieces of `chop` bytes and returns all frames received until the end of the connection.
fn exchange(address: SocketAddr, bytes: &[u8], chop: usize) -> Frames {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(upgrade("/").as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let writer = stream.try_clone().unwrap();
    let (mut all, chopped) = (Vec::new(), bytes.to_vec());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut writer = writer;
            for piece in chopped.chunks(chop) {
                // The server may close before it has read everything.
                if writer.write_all(piece).is_err() {
                    return;
                }
            }
        });
        let mut buffer = [0; 65536];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => all.extend_from_slice(&buffer[..read]),
                // Closing with unread data resets the connection.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("{error} after {} bytes", all.len()),
            }
        }
    });
    parse(&all)
}

fn parse(mut bytes: &[u8]) -> Frames {
    let mut frames = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        assert_eq!(first & 0xf0, FIN, "expected a complete frame without reserved bits");
        let (length, rest) = match length {
            126 => (usize::from(u16::from_be_bytes(rest[..2].try_into().unwrap())), &rest[2..]),
            127 => (usize::try_from(u64::from_be_bytes(rest[..8].try_into().unwrap())).unwrap(), &rest[8..]),
            length => (usize::from(*length), rest),
        };
        let (payload, rest) = rest.split_at(length);
        let opcode = first & 0x0f;
        let payload = if opcode == CLOSE { &payload[..payload.len().min(2)] } else { payload };
        frames.push((opcode, payload.to_vec()));
        bytes = rest;
    }
    frames
}

/// A case: its number in the testsuite, the frames to send and the expected response.
struct Case {
    number: String,
    sent: Vec<Vec<u8>>,
    expected: Frames,
    chop: usize,
}

#[derive(Default)]
struct Cases(Vec<Case>);

impl Cases {
    fn add(&mut self, number: impl Into<String>, sent: Vec<Vec<u8>>, expected: Frames) -> &mut Case {
        self.0.push(Case { number: number.into(), sent, expected, chop: usize::MAX });
        self.0.last_mut().unwrap()
    }

    /// A case answered with `expected`, after which the client closes.
    fn passes(&mut self, number: impl Into<String>, mut sent: Vec<Vec<u8>>, mut expected: Frames) -> &mut Case {
        sent.push(close(1000, b""));
        expected.push((CLOSE, 1000_u16.to_be_bytes().to_vec()));
        self.add(number, sent, expected)
    }

    /// A case answered with `expected` and then a close frame with `code`.
    fn fails(&mut self, number: impl Into<String>, sent: Vec<Vec<u8>>, mut expected: Frames, code: u16) -> &mut Case {
        expected.push((CLOSE, code.to_be_bytes().to_vec()));
        self.add(number, sent, expected)
    }
}

fn framing(cases: &mut Cases) {
    for (group, opcode) in [(1, TEXT), (2, BINARY)] {
        for (number, length) in [0, 125, 126, 127, 128, 65535, 65536, 65536].into_iter().enumerate() {
            let (byte, payload) = (if opcode == TEXT { b'*' } else { 0xfe }, vec![0; length]);
            let payload: Vec<u8> = payload.into_iter().map(|_: u8| byte).collect();
            let sent = vec![frame(FIN | opcode, &payload)];
            let case = cases.passes(format!("1.{group}.{}", number + 1), sent, vec![(opcode, payload)]);
            case.chop = if number == 7 { 997 } else { usize::MAX };
        }
    }
}

fn pings(cases: &mut Cases) {
    let binary = b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff".to_vec();
    for (number, payload) in [(1, vec![]), (2, b"Hello, world!".to_vec()), (3, binary), (4, vec![0xfe; 125])] {
        cases.passes(format!("2.{number}"), vec![frame(FIN | PING, &payload)], vec![(PONG, payload)]);
    }
    cases.fails("2.5", vec![frame(FIN | PING, &[0xfe; 126])], vec![], 1002);
    cases.passes("2.6", vec![frame(FIN | PING, &[0xfe; 125])], vec![(PONG, vec![0xfe; 125])]).chop = 1;
    cases.passes("2.7", vec![frame(FIN | PONG, b"")], vec![]);
    cases.passes("2.8", vec![frame(FIN | PONG, b"unsolicited")], vec![]);
    let sent = vec![frame(FIN | PONG, b"unsolicited"), frame(FIN | PING, b"ping")];
    cases.passes("2.9", sent, vec![(PONG, b"ping".to_vec())]);
    let payloads: Vec<_> = (0..10).map(|number| format!("payload-{number}").into_bytes()).collect();
    for (number, chop) in [("2.10", usize::MAX), ("2.11", 1)] {
        let sent = payloads.iter().map(|payload| frame(FIN | PING, payload)).collect();
        cases.passes(number, sent, payloads.iter().map(|payload| (PONG, payload.clone())).collect()).chop = chop;
    }
}

fn reserved(cases: &mut Cases) {
    let hello = || (TEXT, b"Hello".to_vec());
    cases.fails("3.1", vec![frame(FIN | 0x40 | TEXT, b"Hello")], vec![], 1002);
    for (number, bits, chop) in [("3.2", 0x20, usize::MAX), ("3.3", 0x30, usize::MAX), ("3.4", 0x40, 1)] {
        let sent = vec![frame(FIN | TEXT, b"Hello"), frame(FIN | bits | TEXT, b"Hello"), frame(FIN | PING, b"")];
        cases.fails(number, sent, vec![hello()], 1002).chop = chop;
    }
    cases.fails("3.5", vec![frame(FIN | 0x50 | BINARY, b"\x00\xff")], vec![], 1002);
    cases.fails("3.6", vec![frame(FIN | 0x60 | PING, b"Hello")], vec![], 1002);
    cases.fails("3.7", vec![frame(FIN | 0x70 | CLOSE, b"")], vec![], 1002);
    for (group, opcodes) in [(1, 3..=7), (2, 11..=15)] {
        for (number, opcode) in opcodes.enumerate() {
            cases.fails(format!("4.{group}.{}", number + 1), vec![frame(FIN | opcode, b"")], vec![], 1002);
        }
    }
}

fn fragmentation(cases: &mut Cases) {
    cases.fails("5.1", fragments(PING, b"fragment", 4), vec![], 1002);
    cases.fails("5.2", fragments(PONG, b"fragment", 4), vec![], 1002);
    let whole = || (TEXT, b"fragment1fragment2".to_vec());
    for (number, chop) in [("5.3", usize::MAX), ("5.4", 20), ("5.5", 1)] {
        cases.passes(number, fragments(TEXT, b"fragment1fragment2", 9), vec![whole()]).chop = chop;
    }
    for (number, chop) in [("5.6", usize::MAX), ("5.7", 20), ("5.8", 1)] {
        let mut sent = fragments(TEXT, b"fragment1fragment2", 9);
        sent.insert(1, frame(FIN | PING, b"ping"));
        cases.passes(number, sent, vec![(PONG, b"ping".to_vec()), whole()]).chop = chop;
    }
    for (number, first) in [("5.9", FIN | CONTINUATION), ("5.12", CONTINUATION)] {
        let sent = vec![frame(first, b"non-continuation"), frame(FIN | TEXT, b"Hello, world!")];
        cases.fails(number, sent, vec![], 1002);
    }
    let mut sent = fragments(TEXT, b"fragment1fragment2", 9);
    sent.extend([frame(FIN | CONTINUATION, b"fragment3"), frame(TEXT, b"fragment4")]);
    cases.fails("5.15", sent, vec![whole()], 1002);
    cases.fails("5.18", vec![frame(TEXT, b"fragment1"), frame(FIN | TEXT, b"fragment2")], vec![], 1002);
    let parts = fragments(TEXT, b"fragment1fragment2fragment3fragment4fragment5", 9);
    let mut sent = Vec::new();
    for part in parts {
        sent.extend([part, frame(FIN | PING, b"pongme")]);
    }
    let mut expected = vec![(PONG, b"pongme".to_vec()); 4];
    expected.extend([(TEXT, b"fragment1fragment2fragment3fragment4fragment5".to_vec()), (PONG, b"pongme".to_vec())]);
    cases.passes("5.19", sent, expected);
}

fn utf8(cases: &mut Cases) {
    cases.passes("6.1.1", vec![frame(FIN | TEXT, b"")], vec![(TEXT, vec![])]);
    let empty = vec![frame(TEXT, b""), frame(CONTINUATION, b""), frame(FIN | CONTINUATION, b"")];
    cases.passes("6.1.2", empty, vec![(TEXT, vec![])]);
    let middle = vec![frame(TEXT, b""), frame(CONTINUATION, b"middle frame"), frame(FIN | CONTINUATION, b"")];
    cases.passes("6.1.3", middle, vec![(TEXT, b"middle frame".to_vec())]);
    let valid = "Hello-µ@ßöäüàá-UTF-8!!".as_bytes();
    cases.passes("6.2.1", vec![frame(FIN | TEXT, valid)], vec![(TEXT, valid.to_vec())]);
    cases.passes("6.2.2", fragments(TEXT, valid, 12), vec![(TEXT, valid.to_vec())]);
    cases.passes("6.2.3", fragments(TEXT, valid, 1), vec![(TEXT, valid.to_vec())]);
    // An encoded surrogate, which is invalid UTF-8.
    let invalid = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80\x65\x64\x69\x74\x65\x64";
    cases.fails("6.3.1", vec![frame(FIN | TEXT, invalid)], vec![], 1007);
    cases.fails("6.3.2", fragments(TEXT, invalid, 1), vec![], 1007);
    // The connection fails at the invalid frame; the rest is not sent.
    cases.fails("6.4.1", fragments(TEXT, invalid, 13)[..2].to_vec(), vec![], 1007);
    for (number, valid) in
        [("6.5.1", "\0"), ("6.6.5", "\u{7f}"), ("6.7.1", "\u{80}"), ("6.9.4", "\u{10ffff}"), ("6.11.4", "\u{ffff}")]
    {
        cases.passes(number, vec![frame(FIN | TEXT, valid.as_bytes())], vec![(TEXT, valid.as_bytes().to_vec())]);
    }
    for (number, invalid) in [
        ("6.12.1", &b"\xf5"[..]),
        ("6.13.1", b"\xc0\x80"),
        ("6.14.1", b"\x80"),
        ("6.18.1", b"\xfe"),
        ("6.19.1", b"\xf0\x80\x80\xaf"),
        ("6.20.1", b"\xed\xa0\x80"),
        ("6.21.1", b"\xed\xa0\x80\xed\xb0\x80"),
        ("6.23.1", b"\xf4\x90\x80\x80"),
    ] {
        cases.fails(number, vec![frame(FIN | TEXT, invalid)], vec![], 1007);
    }
}

fn closing(cases: &mut Cases) {
    cases.passes("7.1.1", vec![frame(FIN | TEXT, b"Hello World!")], vec![(TEXT, b"Hello World!".to_vec())]);
    for (number, after) in
        [("7.1.2", close(1000, b"")), ("7.1.3", frame(FIN | PING, b"")), ("7.1.4", frame(FIN | TEXT, b"x"))]
    {
        cases.fails(number, vec![close(1000, b""), after], vec![], 1000);
    }
    let sent = vec![frame(TEXT, b"fragment1"), close(1000, b""), frame(FIN | CONTINUATION, b"fragment2")];
    cases.fails("7.1.5", sent, vec![], 1000);
    cases.add("7.3.1", vec![frame(FIN | CLOSE, b"")], vec![(CLOSE, vec![])]);
    cases.fails("7.3.2", vec![frame(FIN | CLOSE, b"a")], vec![], 1002);
    cases.fails("7.3.3", vec![close(1000, b"")], vec![], 1000);
    cases.fails("7.3.4", vec![close(1000, b"Hello World!")], vec![], 1000);
    cases.fails("7.3.5", vec![close(1000, &[b'*'; 123])], vec![], 1000);
    cases.fails("7.3.6", vec![close(1000, &[b'*'; 124])], vec![], 1002);
    cases.fails("7.5.1", vec![close(1000, b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80")], vec![], 1007);
    for (number, code) in
        [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999].iter().enumerate()
    {
        cases.fails(format!("7.7.{}", number + 1), vec![close(*code, b"")], vec![], *code);
    }
    for (number, code) in [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999].iter().enumerate() {
        cases.fails(format!("7.9.{}", number + 1), vec![close(*code, b"")], vec![], 1002);
    }
}

fn large(cases: &mut Cases) {
    let payload = vec![b'*'; 1 << 20];
    for (number, opcode) in [("9.1.3", TEXT), ("9.2.3", BINARY)] {
        cases.passes(number, vec![frame(FIN | opcode, &payload)], vec![(opcode, payload.clone())]);
    }
    cases.passes("9.3.4", fragments(TEXT, &payload, 4096), vec![(TEXT, payload.clone())]);
    cases.passes("9.5.4", vec![frame(FIN | TEXT, &payload)], vec![(TEXT, payload)]).chop = 512;
    let payload = vec![b'*'; 65536];
    cases.passes("10.1.1", fragments(TEXT, &payload, 1300), vec![(TEXT, payload)]);
}

#[test]
fn autobahn_cases_pass() {
    let mut cases = Cases::default();
    for group in [framing, pings, reserved, fragmentation, utf8, closing, large] {
        group(&mut cases);
    }
    assert!(cases.0.len() > 100, "{}", cases.0.len());
    let address = start();
    for Case { number, sent, expected, chop } in cases.0 {
        let received = exchange(address, &sent.concat(), chop);
        let brief = |frames: &Frames| {
            let brief = |(opcode, payload): &(u8, Vec<u8>)| {
                format!("{opcode}:{}", payload[..payload.len().min(20)].escape_ascii())
            };
            frames.iter().map(brief).collect::<Vec<_>>().join(" ")
        };
        assert!(received == expected, "case {number}: {}, expected {}", brief(&received), brief(&expected));
    }
}
