#!/bin/bash
# Runs once, when a cluster is made. For every LEEWARD_<SERVICE>_DATABASE_URL among this container's secrets: the role it
# names, and a database of that role which no other may enter.
set -euo pipefail

run() {
    psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username=postgres --dbname=postgres
}

for file in "${SECRETS:-/run/secrets}"/*_database_url; do
    url=$(<"$file")
    login=${url#*://}
    login=${login%%@*}
    # in the environment, since whoever lists processes reads arguments
    ROLE=${login%%:*} PASSWORD=${login#*:} DATABASE=${url##*/} run <<'SQL'
\getenv role ROLE
\getenv password PASSWORD
\getenv database DATABASE
CREATE ROLE :"role" LOGIN PASSWORD :'password';
CREATE DATABASE :"database" OWNER :"role";
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
SQL
done

run <<'SQL'
REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;
SQL
