package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// appName is the image that stands for a service of the mesh, and the program in it: this one.
const appName = "app"

// Answer is what the program of the image "lab/app" says to each request: what it saw of it.
//
// It listens on port 8080 in HTTP/1 and cleartext HTTP/2. The query asks for trouble: "status=503" for
// another status, "delay=2s" for a late answer, "pod=NAME" for trouble from that pod only. Each request
// is a line of its log: method and target.
type Answer struct {
	Pod    string
	Method string
	Host   string
	Path   string
	Header http.Header
}

// Workload is the manifest of a Deployment of the app, with its Service and an identity of its own.
func Workload(namespace, name string) string {
	return strings.NewReplacer("NAMESPACE", namespace, "NAME", name).Replace(`
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: NAME, namespace: NAMESPACE}
---
apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: NAMESPACE}
spec: {selector: {app: NAME}, ports: [{name: http, port: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, namespace: NAMESPACE}
spec:
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec:
      serviceAccountName: NAME
      # Not before it listens, and until the other proxies have heard that it goes.
      containers: [{name: app, image: lab/app, readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}, lifecycle: {preStop: {sleep: {seconds: 10}}}}]
`)
}

// Ask sends a GET and returns the status and, if the answer is the app's, what it says. A header Host is the request's host.
func Ask(client *http.Client, url string, header http.Header) (status int, a *Answer, err error) {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	if header != nil {
		request.Header = header
		request.Host = header.Get("Host")
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, nil, err
	}
	if a = new(Answer); json.Unmarshal(body, a) != nil || a.Pod == "" {
		a = nil // somebody else's answer
	}
	return response.StatusCode, a, nil
}

// app is the program. On SIGTERM it answers what it has begun.
func app() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server := &http.Server{Addr: ":8080", Handler: http.HandlerFunc(answer), ReadHeaderTimeout: time.Minute, Protocols: cleartext()}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		<-ctx.Done()
		_ = server.Shutdown(context.Background())
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, "app:", err)
		return 1
	}
	<-drained
	return 0
}

func answer(w http.ResponseWriter, r *http.Request) {
	a := Answer{Pod: os.Getenv("HOSTNAME"), Method: r.Method, Host: r.Host, Path: r.URL.Path, Header: r.Header}
	fmt.Println(r.Method, r.RequestURI)
	status := http.StatusOK
	if q := r.URL.Query(); !q.Has("pod") || q.Get("pod") == a.Pod {
		if n, err := strconv.Atoi(q.Get("status")); err == nil {
			status = n
		}
		if d, err := time.ParseDuration(q.Get("delay")); err == nil {
			select {
			case <-time.After(d):
			case <-r.Context().Done():
				return
			}
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(a)
}

// cleartext is HTTP/1 and HTTP/2 without TLS.
func cleartext() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	return p
}
