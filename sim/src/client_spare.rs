//! The spare connection of a client: to another gateway, beside the main one, while its session wants
//! it.

use sharklock_client::session::Output;

use crate::client::Link;
use crate::note;
use crate::streams::{End, Half};
use crate::world::{Event, World};

impl World {
    /// As the session's task does: what the session wants of its spare connection.
    pub(crate) fn client_minds_spare(&mut self, number: usize, output: &mut Output<u64, u64, u64>) {
        let Some(process) = &self.clients[number - 1].process else { return };
        if !output.spare.is_empty() {
            self.counters.count("keepalives by a spare connection");
        }
        self.client_sends_over(number, process.spare, Half::Urgent, &mut output.spare);
        if std::mem::take(&mut output.move_to_spare) {
            self.client_moves(number);
        }
        if std::mem::take(&mut output.leave_spare) {
            self.client_drops_spare(number);
            if let Some(process) = &mut self.clients[number - 1].process {
                process.rotation.leave_spare();
            }
        }
        let Some(process) = &self.clients[number - 1].process else { return };
        match (process.spare, output.spare_wanted) {
            (Link::Idle, true) => self.plan_spare_dial(number, 0),
            (_, false) => self.client_drops_spare(number),
            (Link::Dialling | Link::Up(_), true) => {}
        }
    }

    /// It broke, or could not be made: the next other gateway, after a pause that doubles.
    pub(crate) fn client_spare_lost(&mut self, number: usize) {
        let Some(process) = &mut self.clients[number - 1].process else { return };
        let pause = process.rotation.spare_lost().as_nanos() as u64;
        self.plan_spare_dial(number, pause);
    }

    /// The spare connection is the main one from now on.
    fn client_moves(&mut self, number: usize) {
        let Some(process) = &mut self.clients[number - 1].process else { return };
        assert!(matches!(process.spare, Link::Up(_)), "there is no other connection to move to");
        let spare = std::mem::replace(&mut process.spare, Link::Idle);
        let before = std::mem::replace(&mut process.link, spare);
        process.rotation.move_to(process.spare_at);
        let gateway = 1 + process.spare_at;
        if let Link::Up(conn) = before {
            self.hang_up(conn, End::Dialler, false);
        }
        note!(self, "c{number} moves to g{gateway}");
        self.counters.count("clients move to their spare gateway");
    }

    fn client_drops_spare(&mut self, number: usize) {
        let Some(process) = &mut self.clients[number - 1].process else { return };
        if let Link::Up(conn) = std::mem::replace(&mut process.spare, Link::Idle) {
            self.hang_up(conn, End::Dialler, false);
        }
    }

    fn plan_spare_dial(&mut self, number: usize, pause_ns: u64) {
        let took = 2 * self.stream_delay_ns();
        let client = &mut self.clients[number - 1];
        let life = client.life;
        let Some(process) = &mut client.process else { return };
        let Some(at) = process.rotation.spare() else {
            process.spare = Link::Idle;
            return;
        };
        (process.spare, process.spare_at) = (Link::Dialling, at);
        process.dials_count += 1;
        process.spare_dial = process.dials_count;
        let dial = process.spare_dial;
        let at = self.now + pause_ns + took;
        self.queue.plan(at, Event::ClientDials { client: number, life, dial, since: self.now });
    }
}
