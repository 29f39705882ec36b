//! Generated schedules of a client and a machine with a bad network between them.

mod worlds {
    pub mod pair;
    pub mod schedules;
}

use worlds::pair::{run, schedule};

#[test]
fn ours_with_ours() {
    worlds::schedules::hold("pair", 35_000, schedule(), |schedule| run(true, schedule));
}

#[test]
fn ours_with_a_machine_that_does_not_take_order() {
    worlds::schedules::hold("pair", 30_000, schedule(), |schedule| run(false, schedule));
}
