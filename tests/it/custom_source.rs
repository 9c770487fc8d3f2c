//! `examples/custom_source.rs`: a source outside the crate, in front of the real pipeline.

use std::io::Write;
use std::process::Stdio;

use crate::support::{Event, EventSource, Tallycast, example};

#[test]
fn lines_from_standard_input_reach_sse_clients() {
    let mut command = example("custom_source");
    command.arg("127.0.0.1:0").stdin(Stdio::piped());
    let mut program = Tallycast::spawn(command);
    let mut input = program.take_stdin();
    let lines = EventSource::open(&program, "/subscribe/lines");
    let greetings = EventSource::open(&program, "/subscribe/lines/greetings");
    let counts = EventSource::open(&program, "/subscribe/counts");
    input.write_all(b"greetings hello\nnot-an-event\nother text with spaces\n").unwrap();
    assert_eq!(greetings.next(), Event::message("hello"));
    assert_eq!([lines.next(), lines.next()], ["hello", "text with spaces"].map(Event::message));
    // The end of the input is the end of the source, and of the program.
    drop(input);
    let counts = crate::contract::sum_windows(counts.rest().into_iter().map(|event| event.data));
    assert_eq!(counts, [("hello".to_owned(), 1), ("text with spaces".to_owned(), 1)].into());
    let ended = program.wait();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
}
