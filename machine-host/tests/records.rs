//! What is written down: one record for each lapse, and one for each Stop that was lost. Alone in its process: logs and counters are the
//! process's.

mod rig;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use machine_api::viam::component::motor::v1::StopRequest;
use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use rig::{Rig, power, with};

/// Everything that was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn lines_with(&self, word: &str) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.0.lock().expect("no panic")).into_owned();
        text.lines().filter(|line| line.contains(word)).map(str::to_owned).collect()
    }
}

/// Counters by name.
#[derive(Clone, Default)]
struct Counters(Arc<Mutex<BTreeMap<String, Arc<Count>>>>);

#[derive(Default)]
struct Count(AtomicU64);

impl CounterFn for Count {
    fn increment(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

impl Recorder for Counters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.0.lock().expect("no panic").entry(key.name().to_owned()).or_default().clone())
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

impl Counters {
    fn of(&self, name: &str) -> u64 {
        self.0.lock().expect("no panic").get(name).map_or(0, |count| count.0.load(Ordering::Relaxed))
    }
}

fn written() -> &'static (Log, Counters) {
    static WRITTEN: OnceLock<(Log, Counters)> = OnceLock::new();
    WRITTEN.get_or_init(|| {
        let (log, counters) = (Log::default(), Counters::default());
        let writer = log.clone();
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
        metrics::set_global_recorder(counters.clone()).expect("the first");
        (log, counters)
    })
}

#[tokio::test]
async fn s29_a_lapse_is_one_record_that_says_who_from_where_and_what_was_stopped() {
    let (log, counters) = written();
    let rig = Rig::start(Duration::from_millis(200), &[]).await;
    let id = rig.session().await;
    rig.motor().set_power(with(power("m1", 0.5), "viam-sid", &id)).await.expect("moved");
    rig.until(|rig| rig.writes("m1").last() == Some(&0.0)).await;
    rig.until(|_| !log.lines_with(&id).is_empty()).await;
    let lines = log.lines_with(&id);
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in [
        "liveness: ",
        "event=\"expired\"",
        &format!("session_id=\"{id}\""),
        "connection_type=\"grpc\"",
        "remote_address=\"127.0.0.1:",
        "stopped_resources=[\"rdk:component:motor/m1\"]",
    ] {
        assert!(lines[0].contains(part), "{part} is missing in {}", lines[0]);
    }
    assert!(counters.of("lifeline_lapses_total") >= 1);
}

#[tokio::test]
async fn s24_a_stop_that_fails_to_the_end_is_a_record_and_a_counter() {
    let (log, counters) = written();
    let rig = Rig::start(Duration::from_secs(10), &[]).await;
    rig.add_broken("bad");
    let before = counters.of("lifeline_stops_lost_total");
    rig.motor().stop(StopRequest { name: "bad".into(), extra: None }).await.expect_err("it fails");
    rig.until(|_| counters.of("lifeline_stops_lost_total") > before).await;
    assert!(counters.of("lifeline_stops_failed_total") >= 4, "the first, and three more");
    let lost = log.lines_with("Stop was lost");
    assert!(lost.iter().any(|line| line.contains("ERROR") && line.contains("rdk:component:motor/bad")), "{lost:?}");
    assert!(!log.lines_with("failed to stop some resources").is_empty());
    assert_eq!(rig.writes("bad"), [0.0; 4], "0, 100, 200 and 400 ms");
}
