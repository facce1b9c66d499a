//! Rooms and marks in figures. Whoever gets them wrong loses no byte, only time, so that no rule is broken.

use super::*;

/// As TLS 1.3 with AES-GCM.
const RECORDS: Layout = Layout { header: 5, trailer: 17, payload_max: 16 << 10 };

#[test]
fn a_buffer_takes_whole_records_and_what_is_left_of_one() {
    let (mut outbound, mut pool) = (Outbound::default(), Pool::default());
    // of 264 KiB: 16 records of 16,406 bytes, and 7,840 bytes with a header and a trailer in them
    let all = 16 * (16 << 10) + 7_840 - 22;
    assert_eq!(outbound.payload_room(RECORDS, usize::MAX), all);
    assert_eq!(outbound.payload_room(RECORDS, 1000), 1000);
    assert_eq!(outbound.payload_room(Layout::TRANSPARENT, usize::MAX), LARGEST);
    outbound.queue.make_room(LARGEST, &mut pool);
    outbound.queue.fill(LARGEST - 16_406 - 22);
    assert_eq!(outbound.payload_room(RECORDS, usize::MAX), 16 << 10, "too little is left for another");
    outbound.queue.fill(1 + 16_406);
    assert_eq!(outbound.payload_room(RECORDS, usize::MAX), 0);
}

#[test]
fn records_are_laid_out_in_the_smallest_buffer_that_they_fit() {
    for (payload, buffer) in
        [(1, 4 << 10), (16 << 10, 20 << 10), (64 << 10, 68 << 10), (256 << 10, 264 << 10)]
    {
        let (mut outbound, mut pool) = (Outbound::default(), Pool::default());
        let mut places = [(); BATCH].map(|()| <&mut [u8]>::default());
        let records = outbound.lay_out(RECORDS, payload, &mut pool, &mut places);
        assert_eq!(records, payload.div_ceil(16 << 10));
        assert_eq!(places.iter().map(|place| place.len()).sum::<usize>(), payload);
        assert_eq!(outbound.lent(), buffer);
    }
}

#[test]
fn each_record_is_delivered_when_it_is_out_until_there_are_too_many_to_tell() {
    let (mut outbound, mut pool) = (Outbound::default(), Pool::default());
    outbound.queue.make_room(10 * (MARKS + 2), &mut pool);
    for _ in 0..MARKS + 2 {
        outbound.queue.fill(10);
        outbound.mark(4);
    }
    assert_eq!(outbound.marks.len(), MARKS);
    for _ in 1..MARKS {
        assert_eq!((outbound.take(9, RECORDS), outbound.take(1, RECORDS)), (0, 4));
    }
    assert_eq!((outbound.take(29, RECORDS), outbound.take(1, RECORDS)), (0, 12), "the last three go as one");
}

/// While payloads wait nothing is moved, for they are known by their places.
#[test]
fn beside_payloads_there_is_room_for_what_fits_behind_them() {
    let (mut inbound, mut pool) = (Inbound::default(), Pool::default());
    let buffer = inbound.room(1, 1, &mut pool).map(|room| room.len());
    assert_eq!(buffer, Some(1), "no more than wished for");
    let size = inbound.queue.room();
    inbound.fill(size - 6);
    inbound.opened = size - 96;
    inbound.payloads.push_back(0..10);
    assert_eq!((inbound.held(), inbound.lent()), (size - 6, size));
    // 90 bytes of the next record are there
    for (need, wish, room) in [
        (91, 0, Some(1)),
        (96, 0, Some(6)),
        (97, 0, None),
        (91, 1000, Some(6)),
        (91, 3, Some(3)),
        (90, 0, Some(1)),
        (1, 0, Some(1)),
    ] {
        assert_eq!(inbound.has_room(need), room.is_some(), "for {need}");
        let got = inbound.room(need, wish, &mut pool).map(|room| room.len());
        assert_eq!(got, room, "for {need}, better {wish}");
    }
    inbound.discard_payloads();
    assert_eq!((inbound.held(), inbound.has_room(97)), (90, true));
    let got = inbound.room(97, 1000, &mut pool).map(|room| room.len());
    assert_eq!(got, Some(1000), "nothing has to stay where it is");
    let got = inbound.room(97, usize::MAX, &mut pool).map(|room| room.len());
    assert_eq!(got, Some(LARGEST - 90), "but no buffer is larger");
}
