"""A load of Intouch's contacts into DuckDB, in a process of its own: `dlt_job.py FOLDER RUNS`.

Says `go` when it begins, and prints the number of rows and of different ids after each run.
"""

import sys
from pathlib import Path

import dlt

from asyncclients import IntouchClient, Quota, SessionPool
from asyncclients.integrations.dlt import resource


def run(folder: Path, intouch: IntouchClient) -> str:
    pipeline = dlt.pipeline(
        "crm",
        pipelines_dir=str(folder / "pipelines"),
        destination=dlt.destinations.duckdb(str(folder / "crm.duckdb")),
        dataset_name="intouch",
    )
    contacts = intouch.contacts.list(sort_by="created_at")
    pipeline.run(resource(contacts, primary_key="uuid", incremental="updated_at"))
    with pipeline.sql_client() as client:
        rows = client.execute_sql("SELECT count(*), count(DISTINCT uuid) FROM contacts")
    assert rows is not None
    return " ".join(map(str, rows[0]))


if __name__ == "__main__":
    sys.stdout.write("go\n")
    sys.stdout.flush()
    intouch = IntouchClient.from_env(SessionPool(), quotas=[Quota(100_000, 1.0)])
    for _ in range(int(sys.argv[2])):
        sys.stdout.write(run(Path(sys.argv[1]), intouch) + "\n")
