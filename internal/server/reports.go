package server

import (
	"context"
	"strconv"

	"myelin/internal/report"
	"myelin/internal/web"
	"myelin/matrix/mxerr"
)

// Reports is a page of what users reported.
type Reports struct {
	Reports []report.Report `json:"reports"`
}

// ReportsPage is the most reports that one answer lists.
const ReportsPage = 1000

// listReports lists reports by number, those after the query parameter "after".
func (k *core) listReports(ctx context.Context, r *web.Request) (*web.Response, error) {
	after, err := r.QueryInt("after", 0)
	if err != nil {
		return nil, err
	}
	reports, err := report.Open(ctx, k.db, k.log) // the server may not run, and may never have run
	if err != nil {
		return nil, err
	}
	found, err := reports.List(ctx, after, ReportsPage)
	if err != nil {
		return nil, err
	}
	return web.JSON(Reports{found}), nil
}

// deleteReport forgets a report that has been dealt with.
func (k *core) deleteReport(ctx context.Context, r *web.Request) (*web.Response, error) {
	number, err := strconv.ParseInt(r.Path("number"), 10, 64)
	if err != nil {
		return nil, mxerr.InvalidParam("%.40q is no number of a report", r.Path("number"))
	}
	reports, err := report.Open(ctx, k.db, k.log)
	if err != nil {
		return nil, err
	}
	return web.Empty, reports.Delete(ctx, number)
}
