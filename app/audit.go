package app

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/audit"
	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/quota/api"
	"github.com/voicecore-ai/sluice/telemetry"
)

// openAudit opens the audit log and, where it is asked for, its copy to a collector.
func (a *App) openAudit(keys keys) error {
	if a.config.Audit == "off" {
		return nil
	}
	o := audit.Options{
		Dir: filepath.Join(a.config.Data, auditFolder), Origin: keys.origin, Seed: keys.audit, Mask: keys.mask,
		WholeSource: a.config.AuditWholeSources, SourceRate: a.config.AuditAnonymousRate, TenantRate: a.config.AuditTenantRate,
		Retention: audit.Retention{Bytes: int64(a.config.AuditMaxMiB) << 20, Age: a.config.AuditMaxAge, Keep: a.config.AuditKeep},
		Wait:      a.config.AuditWait,
		Log:       a.log,
	}
	if a.config.AuditDir != "" {
		o.Dir = a.config.AuditDir
	}
	if a.config.AuditOTLP {
		to, err := a.config.collector()
		if err != nil {
			return err
		}
		copies, err := telemetry.NewAuditLogs(context.Background(), to, Version)
		if err != nil {
			return fmt.Errorf("audit-otlp: %w", err)
		}
		a.auditCopies, o.Copy = copies, copies.Write
		a.teardown.add(copies.Close)
	}
	var err error
	if a.audit, err = audit.Open(o); errors.Is(err, audit.ErrLocked) {
		return fmt.Errorf("audit-dir %s: %w; stop it, or name another folder", o.Dir, err)
	} else if err != nil {
		return fmt.Errorf("audit-dir %s: %w; want a folder that this user can write, or can make", o.Dir, err)
	}
	a.teardown.add(func(context.Context) error { return a.audit.Close() })
	return nil
}

// auditor is the log as the gate sees it; nil, and not a nil log, if there is none.
func (a *App) auditor() gate.Auditor {
	if a.audit == nil {
		return nil
	}
	return a.audit
}

// recordAct writes an administrator's act, or that somebody was refused one. The act has
// happened: if its record can't be made, the log of the server says so, and it stands.
func (a *App) recordAct(act api.Act) {
	e := audit.Entry{
		Time: act.Time, Kind: audit.KindAdmin, Class: authz.Required, Anonymous: act.Actor == "",
		Source: act.Source, Actor: act.Actor, Act: act.Method, Resource: act.Resource,
		Allowed: act.Reason == "", Reason: act.Reason, Revision: act.Revision,
	}
	if err := a.audit.Record(&e); err != nil {
		a.log.Error("an administrator's act is not in the audit log", "method", act.Method, "resource", act.Resource, "error", err)
	}
}

// recordEnd writes that a stream which was admitted was ended before its time.
func (a *App) recordEnd(now int64, h *gate.Held, reason gate.Reason) {
	e := audit.Entry{
		Time: now, Kind: audit.KindStreamEnd, Class: authz.BestEffort, Decision: h.Decision,
		Tenant: h.Tenant, Plan: h.Plan, Principal: h.Principal.Name, Scheme: h.Principal.Scheme, Roles: h.Principal.Roles, Peer: h.Peer,
		Service: h.Action.Service, Method: h.Action.Method, Host: h.Action.Host, Path: h.Action.Path, GRPC: h.Action.GRPC,
		Reason: reason.String(), Revision: a.gate.Revision(),
	}
	if err := a.audit.Record(&e); err != nil {
		a.log.Error("the end of a stream is not in the audit log", "error", err)
	}
}
