//! What needs no server.

use lapin::types::LongString;
use tallycast_fanout::Acknowledgement;

use super::*;

#[tokio::test]
async fn events_are_acknowledged_in_their_order() {
    let (first, receipt) = Acknowledgement::new();
    let mut pending = VecDeque::from([Pending { tag: 1, receipt: Some(receipt), id: None }]);
    let (third, receipt) = Acknowledgement::new();
    pending.push_back(Pending { tag: 2, receipt: None, id: Some("b".to_owned()) });
    pending.push_back(Pending { tag: 3, receipt: Some(receipt), id: None });
    let (fourth, receipt) = Acknowledgement::new();
    pending.push_back(Pending { tag: 4, receipt: Some(receipt), id: None });
    let mut recent = VecDeque::new();
    let mut poll = || poll_taken(&mut pending, &mut recent, &mut Context::from_waker(std::task::Waker::noop()));
    third.acknowledge();
    // An earlier one is missing.
    assert_eq!(poll(), Poll::Pending);
    first.acknowledge();
    assert_eq!(poll(), Poll::Ready(Ok(3)));
    assert_eq!(poll(), Poll::Pending);
    // The pipeline ends.
    drop(fourth);
    assert_eq!(poll(), Poll::Ready(Err(NotAcknowledged)));
    assert_eq!((pending.len(), recent), (1, VecDeque::from(["b".to_owned()])));
}

#[test]
fn sender_is_a_text_in_the_headers() {
    let with = |value| {
        let mut headers = FieldTable::default();
        headers.insert(SENDER.into(), value);
        sender(&BasicProperties::default().with_headers(headers))
    };
    assert_eq!(with(AMQPValue::LongString(LongString::from("Zoë"))), Some("Zoë".to_owned()));
    assert_eq!(with(AMQPValue::LongUInt(7)), None);
    assert_eq!(sender(&BasicProperties::default()), None);
}
