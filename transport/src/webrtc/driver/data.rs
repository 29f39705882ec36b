//! Messages, in both directions.

use super::*;
use crate::webrtc::channel::DataChannel;

/// How long an orderly end waits for what was written to be acknowledged.
const LINGER: Duration = Duration::from_secs(1);
/// Messages of one wake-up before others get their turn.
const AT_ONCE: usize = 64;

impl Driver {
    pub(super) fn opened(&mut self, now: Instant) {
        let (Some(pair), Some(commands)) = (self.selected, self.control.upgrade()) else { return };
        self.life.tell(now);
        let rtt = self.checks.health((pair.local.address, pair.remote.address)).rtt.unwrap_or_default();
        let (channel, end) = DataChannel::new(ChannelInfo { pair, rtt });
        self.open = Some(end);
        let control = Control { commands, life: self.life.clone() };
        self.report(Report::Open(channel, control));
        for candidate in self.untold.take() {
            self.tell(candidate);
        }
        if self.gathering.told {
            self.reports = None;
        }
    }

    /// Whether the next message may be taken.
    pub(super) fn takes(&self) -> bool {
        self.open.is_some() && self.closing.is_none() && self.gate.is_open()
    }

    pub(super) fn write(&mut self, message: Option<Bytes>) {
        let now = Instant::now();
        match message {
            Some(message) => self.write_one(&message, now),
            None => self.begin_close(now),
        }
        self.write_waiting(now);
    }

    /// Writes what waits, as far as the gate lets it.
    pub(super) fn write_waiting(&mut self, now: Instant) {
        for _ in 0..AT_ONCE {
            if !self.takes() {
                return;
            }
            let Some(end) = &mut self.open else { return };
            match end.outgoing.try_recv() {
                Ok(message) => self.write_one(&message, now),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => self.begin_close(now),
            }
        }
    }

    pub(super) fn write_one(&mut self, message: &Bytes, now: Instant) {
        match self.peer.write(message) {
            Ok(()) => self.gate.handle_written(message.len(), now),
            Err(error) => {
                tracing::debug!(%error, bytes = message.len(), "message not written");
                self.ended.get_or_insert(CloseReason::Broken(error.to_string()));
            }
        }
    }

    /// Hands received messages over, as long as there is a place for them.
    pub(super) fn deliver(&mut self) {
        let Some(end) = &self.open else { return };
        loop {
            let Some(message) = self.pending.take().or_else(|| self.peer.read()) else { return };
            match end.incoming.try_send(message) {
                Ok(()) => {}
                Err(TrySendError::Full(message)) => {
                    self.pending = Some(message);
                    return;
                }
                // Nobody reads any more; the end of the writing half ends the connection.
                Err(TrySendError::Closed(_)) => {}
            }
        }
    }

    pub(super) fn begin_close(&mut self, now: Instant) {
        self.closing.get_or_insert(now + LINGER);
    }
}
