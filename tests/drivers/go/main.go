// Go: database/sql with lib/pq, and pgx with its statement cache and in the simple protocol; ordinary queries, and the console.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/lib/pq"
)

var backends = map[int]bool{}

// where is how to connect to a database, in libpq's words.
func where(database string) string {
	quoted := func(name string) string {
		value := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(os.Getenv("DRIVERS_" + name))
		return "'" + value + "'"
	}
	return fmt.Sprintf("host=%s port=%s user=%s password=%s dbname=%s sslmode=disable",
		quoted("HOST"), quoted("PORT"), quoted("USER"), quoted("PASSWORD"), database)
}

// check prints a line for scripts/drivers to count.
func check(name string, body func(context.Context) error) {
	fmt.Fprintln(os.Stderr, "running", name)
	begin := time.Now()
	limited, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := body(limited); err != nil {
		fmt.Printf("not ok %s: %s\n", name, strings.Join(strings.Fields(err.Error()), " "))
		return
	}
	fmt.Printf("ok %s (%.2f s)\n", name, time.Since(begin).Seconds())
}

func same(expected, found interface{}) error {
	if fmt.Sprint(expected) != fmt.Sprint(found) {
		return fmt.Errorf("expected %v, found %v", expected, found)
	}
	return nil
}

// first is the first error there is.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func ordinary(name string, query func(context.Context, string, ...interface{}) (int, string, int, error)) {
	check(name+": parameters, and statements that are run again and again", func(ctx context.Context) error {
		for n := 0; n < 40; n++ {
			number, text, pid, err := query(ctx, "SELECT $1::int, $2::text, pg_backend_pid()", n, "it's \\ ä")
			if err := first(err, same(n, number), same("it's \\ ä", text)); err != nil {
				return err
			}
			backends[pid] = true
		}
		return nil
	})
}

func main() {
	work, console := os.Getenv("DRIVERS_DATABASE"), os.Getenv("DRIVERS_CONSOLE")
	background := context.Background()
	db, err := sql.Open("postgres", where(work))
	if err != nil {
		panic(err)
	}
	defer db.Close()
	ordinary("lib/pq", func(ctx context.Context, text string, values ...interface{}) (n int, s string, pid int, err error) {
		err = db.QueryRowContext(ctx, text, values...).Scan(&n, &s, &pid)
		return
	})
	for _, simple := range []bool{false, true} {
		config, err := pgx.ParseConfig(where(work))
		if err != nil {
			panic(err)
		}
		config.PreferSimpleProtocol = simple
		name := fmt.Sprintf("pgx, simple %v", simple)
		conn, err := pgx.ConnectConfig(background, config)
		if err != nil {
			fmt.Printf("not ok %s connects: %s\n", name, err)
			continue
		}
		ordinary(name, func(ctx context.Context, text string, values ...interface{}) (n int, s string, pid int, err error) {
			err = conn.QueryRow(ctx, text, values...).Scan(&n, &s, &pid)
			return
		})
		conn.Close(background)
	}
	if console != "" {
		withPq(console, work)
		withPgx(console, work)
	}
	fmt.Println("servers", len(backends), 0)
	fmt.Println("done")
}

// withPq looks at the console by database/sql.
func withPq(console, work string) {
	check("lib/pq: the console", func(ctx context.Context) error {
		db, err := sql.Open("postgres", where(console))
		if err != nil {
			return err
		}
		defer db.Close()
		rows, err := db.QueryContext(ctx, "SHOW POOLS")
		if err != nil {
			return err
		}
		columns, err := rows.Columns()
		if err := first(err, same("database user cl_active", strings.Join(columns[:3], " ")), rows.Close()); err != nil {
			return err
		}
		var name string
		show := "SHOW DATABASES WHERE name = $1 AND paused = $2 LIMIT $3"
		rows, err = db.QueryContext(ctx, show, work, 0, 1)
		if err != nil {
			return err
		}
		columns, err = rows.Columns()
		if err := first(err, rows.Close(), same(17, len(columns))); err != nil {
			return err
		}
		prepared, err := db.PrepareContext(ctx, "SHOW STATE WHERE key = $1")
		if err != nil {
			return err
		}
		defer prepared.Close()
		for i := 0; i < 3; i++ {
			var value string
			err := prepared.QueryRowContext(ctx, "paused").Scan(&name, &value)
			if err := first(err, same("paused no", name+" "+value)); err != nil {
				return err
			}
		}
		for _, command := range []string{"RECONNECT " + work, "ENABLE " + work, "RELOAD"} {
			if _, err := db.ExecContext(ctx, command); err != nil {
				return fmt.Errorf("%s: %w", command, err)
			}
		}
		var wrong *pq.Error
		if _, err := db.ExecContext(ctx, "PAUSE nowhere"); !errors.As(err, &wrong) || wrong.Code != "3D000" {
			return fmt.Errorf("PAUSE nowhere: %v", err)
		}
		return nil
	})
}

// withPgx looks at the console by pgx, which asks for binary results where it may.
func withPgx(console, work string) {
	for _, simple := range []bool{false, true} {
		check(fmt.Sprintf("pgx, simple %v: the console", simple), func(ctx context.Context) error {
			config, err := pgx.ParseConfig(where(console))
			if err != nil {
				return err
			}
			config.PreferSimpleProtocol = simple
			conn, err := pgx.ConnectConfig(ctx, config)
			if err != nil {
				return err
			}
			defer conn.Close(ctx)
			for i := 0; i < 3; i++ {
				show := "SHOW DATABASES WHERE name = $1"
				rows, err := conn.Query(ctx, show, work)
				if err != nil {
					return err
				}
				if !rows.Next() {
					rows.Close()
					return fmt.Errorf("no row: %v", rows.Err())
				}
				values, err := rows.Values()
				rows.Close()
				if err := first(err, rows.Err(), same(work, values[0]), same(17, len(values)), same(0, values[15])); err != nil {
					return err
				}
				rows, err = conn.Query(ctx, "SHOW CLIENTS WHERE port > $1 LIMIT $2", 0, 5)
				if err != nil {
					return err
				}
				for rows.Next() {
				}
				if err := rows.Err(); err != nil {
					return err
				}
			}
			for _, command := range []string{"RECONNECT " + work, "ENABLE " + work, "RELOAD"} {
				if _, err := conn.Exec(ctx, command); err != nil {
					return fmt.Errorf("%s: %w", command, err)
				}
			}
			var wrong *pgconn.PgError
			if _, err := conn.Exec(ctx, "PAUSE nowhere"); !errors.As(err, &wrong) || wrong.Code != "3D000" {
				return fmt.Errorf("PAUSE nowhere: %v", err)
			}
			return nil
		})
	}
}
