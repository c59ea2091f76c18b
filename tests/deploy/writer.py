"""A client that writes through a balancer all the time, and keeps account of what was acknowledged."""
import threading
import time

import psycopg

TABLE = "create table if not exists ledger (writer text, row bigint, primary key (writer, row))"


class Writer:
    """One row after the other, each a transaction of its own."""

    def __init__(self, name, hosts, port, password):
        self.name, self.password = name, password
        self.where = f"host={','.join(hosts)} port={','.join([str(port)] * len(hosts))} user=postgres dbname=postgres connect_timeout=2"
        self.acknowledged, self.moments, self.errors = [], [], 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, name=f"writer {name}", daemon=True)

    def connect(self):
        return psycopg.connect(self.where, password=self.password, autocommit=True, sslmode="prefer", tcp_user_timeout=3000,
                               options="-c statement_timeout=4000")

    def start(self):
        with self.connect() as connection:
            connection.execute(TABLE)
        self._thread.start()
        return self

    def _write(self):
        row, connection = 0, None
        while not self._stop.is_set():
            row += 1
            try:
                if connection is None:
                    connection = self.connect()
                connection.execute("insert into ledger values (%s, %s)", (self.name, row))
                self.acknowledged.append(row)
                self.moments.append(time.monotonic())
                self._stop.wait(0.01)
            except psycopg.Error:
                self.errors += 1
                if connection is not None:
                    connection.close()
                connection = None
                self._stop.wait(0.1)

    def gap_since(self, moment):
        """The longest time without an acknowledgement since then."""
        moments = [moment] + [at for at in self.moments if at >= moment] + [time.monotonic()]
        return max(after - before for before, after in zip(moments, moments[1:]))

    def goes_on(self):
        """Whether a row was acknowledged within the last second."""
        return bool(self.moments) and time.monotonic() - self.moments[-1] < 1

    def missing(self):
        """Acknowledged rows that are not there."""
        with self.connect() as connection:
            there = {row for (row,) in connection.execute("select row from ledger where writer = %s", (self.name,))}
        return [row for row in self.acknowledged if row not in there]

    def end(self):
        self._stop.set()
        self._thread.join(timeout=15)
