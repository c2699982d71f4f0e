use super::*;

#[test]
fn a_set_that_is_of_no_use_is_left_alone_for_longer_each_time() {
    let seconds = |denied| {
        (0..8)
            .map(|failures| pause(failures, denied).as_secs())
            .collect::<Vec<_>>()
    };
    assert_eq!(seconds(false), [5, 10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(seconds(true), [30, 60, 120, 240, 300, 300, 300, 300]);
    assert_eq!(pause(u32::MAX, true).as_secs(), 300);
}
