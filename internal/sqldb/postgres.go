package sqldb

import (
	"context"
	"errors"
	"log/slog"
)

func openPostgres(ctx context.Context, url string, readers int, log *slog.Logger) (engine, error) {
	return nil, errors.New("PostgreSQL is not supported by this build")
}
