WITH "1 weather" AS NOT MATERIALIZED (
SELECT f."airport" AS "airport", make_timestamp(epoch_us(f."observed_at")) AS "observed_at", f."published_at" AS "published_at", CASE WHEN isfinite(f."temp") OR isinf(f."temp") THEN f."temp" + 0 END AS "temp", f."wind" AS "wind", CASE WHEN p."p0" IS NULL THEN NULL WHEN CAST(TRY_CAST(p."p0" AS BIGINT) AS DOUBLE) = TRY_CAST(p."p0" AS DOUBLE) THEN TRY_CAST(p."p0" AS BIGINT) ELSE error('lossy value: ' || 'column ''year'' of source ''weather''' || ': ' || CAST(p."p0" AS VARCHAR) || ' is not an exact int64') END AS "year", f.file_row_number AS "__file_row", 0 + p.number AS "__file_number"
FROM read_parquet(['/data/weather/year=2013/a.parquet'], union_by_name = true, hive_partitioning = false, filename = '__file') AS f
JOIN (VALUES ('/data/weather/year=2013/a.parquet', 0, CAST('2013' AS VARCHAR))) AS p("__file", number, "p0") ON p."__file" = f."__file"
UNION ALL
SELECT f."airport" AS "airport", make_timestamp(epoch_ns(f."observed_at") // 1000 - CAST(epoch_ns(f."observed_at") % 1000 < 0 AS BIGINT)) AS "observed_at", f."published_at" AS "published_at", CAST(CASE WHEN isfinite(f."temp") OR isinf(f."temp") THEN f."temp" + 0 END AS DOUBLE) AS "temp", CAST(NULL AS INTEGER) AS "wind", CASE WHEN p."p0" IS NULL THEN NULL WHEN CAST(TRY_CAST(p."p0" AS BIGINT) AS DOUBLE) = TRY_CAST(p."p0" AS DOUBLE) THEN TRY_CAST(p."p0" AS BIGINT) ELSE error('lossy value: ' || 'column ''year'' of source ''weather''' || ': ' || CAST(p."p0" AS VARCHAR) || ' is not an exact int64') END AS "year", f.file_row_number AS "__file_row", 1 + p.number AS "__file_number"
FROM read_parquet(['/data/weather/year=2014/it''s [[]b].parquet'], union_by_name = true, hive_partitioning = false, filename = '__file') AS f
JOIN (VALUES ('/data/weather/year=2014/it''s [b].parquet', 0, CAST('2014' AS VARCHAR))) AS p("__file", number, "p0") ON p."__file" = f."__file"
),
"2 query" AS MATERIALIZED (
WITH "weather" AS NOT MATERIALIZED (SELECT "airport" AS "airport", "observed_at" AS "observed_at", "published_at" AS "published_at", "temp" AS "temp", "wind" AS "wind", "year" AS "year" FROM "1 weather")
SELECT * FROM (
SELECT airport, max(observed_at) AS last, count(*) AS days FROM weather GROUP BY airport
)
),
"3 result" AS NOT MATERIALIZED (
SELECT CAST(r."airport" AS VARCHAR) AS "airport", CAST(r."days" AS BIGINT) AS "days", CAST(r."last" AS TIMESTAMP) AS "last"
FROM "2 query" AS r
),
"4 derive" AS NOT MATERIALIZED (
SELECT r."airport" AS "airport", r."days" AS "days", r."last" AS "last", "days" AS "feature:days"
FROM "3 result" AS r
),
"5 stamped" AS NOT MATERIALIZED (
SELECT r."airport" AS "airport", r."days" AS "days", r."last" AS "last", r."feature:days" AS "feature:days", epoch_us(r."last") AS "__event_us", epoch_us(r."last") AS "__created_us", false AS "__deleted"
FROM "4 derive" AS r
WHERE r."airport" IS NOT NULL AND r."last" IS NOT NULL
),
"6 bounded" AS NOT MATERIALIZED (
SELECT r."airport" AS "airport", r."days" AS "days", r."last" AS "last", r."feature:days" AS "feature:days", r."__event_us" AS "__event_us", r."__created_us" AS "__created_us", r."__deleted" AS "__deleted"
FROM "5 stamped" AS r
WHERE greatest(r."__event_us", r."__created_us") > 0 AND greatest(r."__event_us", r."__created_us") <= 10
),
"7 newest" AS MATERIALIZED (
SELECT s."airport" AS k0, max(s."__event_us") AS e
FROM "6 bounded" AS s
GROUP BY s."airport"
),
"8 several" AS MATERIALIZED (
SELECT k0, e
FROM (SELECT s."airport" AS k0, s."__event_us" AS e FROM "6 bounded" AS s
SEMI JOIN "7 newest" AS w ON s."airport" = w.k0 AND s."__event_us" = w.e)
GROUP BY k0, e
HAVING count(*) > 1
),
"9 counted" AS MATERIALIZED (
SELECT w.*, x.e IS NOT NULL AS tied
FROM "7 newest" AS w
LEFT JOIN "8 several" AS x ON x.k0 = w.k0 AND x.e = w.e
),
"10 tied" AS MATERIALIZED (
SELECT DISTINCT k0, e
FROM "9 counted" WHERE tied
),
"11 best" AS NOT MATERIALIZED (
SELECT *
FROM (SELECT w.k0, w.e, s."airport" AS v0, s."days" AS v1, s."last" AS v2, s."feature:days" AS v3, s."__event_us" AS v4, s."__created_us" AS v5, s."__deleted" AS v6, row_number() OVER (PARTITION BY w.k0, w.e ORDER BY s."__created_us" DESC, s."airport" DESC NULLS LAST, s."days" DESC NULLS LAST, s."last" DESC NULLS LAST) AS rank
FROM "6 bounded" AS s
JOIN "10 tied" AS w ON s."airport" = w.k0 AND s."__event_us" = w.e)
WHERE rank = 1
),
"12 settled" AS NOT MATERIALIZED (
SELECT w.e, s."airport" AS v0, s."days" AS v1, s."last" AS v2, s."feature:days" AS v3, s."__event_us" AS v4, s."__created_us" AS v5, s."__deleted" AS v6
FROM "6 bounded" AS s
JOIN (SELECT * FROM "9 counted" WHERE NOT tied) AS w ON s."airport" = w.k0 AND s."__event_us" = w.e
UNION ALL
SELECT w.e, x.v0, x.v1, x.v2, x.v3, x.v4, x.v5, x.v6
FROM "9 counted" AS w
JOIN "11 best" AS x ON x.k0 = w.k0 AND x.e = w.e
WHERE w.tied
),
"13 latest" AS NOT MATERIALIZED (
SELECT v0 AS "airport", v1 AS "days", v2 AS "last", v3 AS "feature:days", v4 AS "__event_us", v5 AS "__created_us", v6 AS "__deleted"
FROM "12 settled"
)
SELECT "airport", "days", "last", "feature:days", "__event_us", "__created_us", "__deleted"
FROM "13 latest"
