{{- define "sluice.name" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride }}
{{- else if contains "sluice" .Release.Name -}}
{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else -}}
{{ .Release.Name | trunc 45 | trimSuffix "-" }}-sluice
{{- end -}}
{{- end -}}

{{- define "sluice.selector" -}}
app.kubernetes.io/name: sluice
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sluice.labels" -}}
{{ include "sluice.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "sluice.metadata" -}}
name: {{ include "sluice.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "sluice.labels" . | nindent 2 }}
{{- end -}}

{{- /* The namespaces of the doors' peers: a SPIFFE id of Istio's is spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT. */ -}}
{{- define "sluice.peerNamespaces" -}}
{{- $all := list -}}
{{- range .Values.doors.peers -}}
{{- $namespace := regexFind "/ns/[^/]+/sa/[^/]+$" . | trimPrefix "/ns/" | regexFind "^[^/]*" -}}
{{- if $namespace }}{{ $all = append $all $namespace }}{{ end -}}
{{- end -}}
{{- $all | uniq | sortAlpha | toJson -}}
{{- end -}}

{{- /* What the file of --config says: the chart's own settings win over .Values.settings, which the schema keeps apart from them. */ -}}
{{- define "sluice.config" -}}
{{- $tls := dict "tls-cert" "/etc/sluice/tls/tls.crt" "tls-key" "/etc/sluice/tls/tls.key" "tls-client-ca" "/etc/sluice/tls/ca.crt" -}}
{{- if eq .Values.tls.source "istio" -}}
{{- $tls = dict "tls-cert" "/etc/sluice/tls/cert-chain.pem" "tls-key" "/etc/sluice/tls/key.pem" "tls-client-ca" "/etc/sluice/tls/root-cert.pem" -}}
{{- end -}}
{{- $own := dict
      "data" "/var/lib/sluice"
      "secrets" "/etc/sluice/secrets"
      "grpc-listen" ":9090"
      "http-listen" (ternary ":9091" "127.0.0.1:9091" .Values.api.exposed)
      "http-remote" .Values.api.exposed
      "status-listen" ":9092"
      "peers" .Values.doors.peers
      "stage" .Values.stage
      "drain-delay" (printf "%ds" (int .Values.drain.delaySeconds))
      "drain-timeout" (printf "%ds" (int .Values.drain.timeoutSeconds)) -}}
{{- if .Values.doors.edgePeers }}{{ $_ := set $own "edge-peers" .Values.doors.edgePeers }}{{ end -}}
{{- if include "sluice.catalogue" . }}{{ $_ := set $own "catalog" "/etc/sluice/catalogue" }}{{ end -}}
{{- if include "sluice.descriptors" . }}{{ $_ := set $own "rls-config" "/etc/sluice/descriptors" }}{{ end -}}
{{- /* A pod that is scaled up by hand does not start on the embedded store: the schema sees only what is written here. */ -}}
{{- if eq .Values.store.type "embedded" }}{{ $_ := set $own "only-host" (printf "%s-0" (include "sluice.name" .)) }}{{ end -}}
{{- $redis := dict -}}
{{- if eq .Values.store.type "redis" -}}
{{- with .Values.store.redis -}}
{{- $redis = dict "redis-url" .url "redis-plaintext" .plainText -}}
{{- if .user }}{{ $_ := set $redis "redis-user" .user }}{{ end -}}
{{- if .existingSecret }}{{ $_ := set $redis "redis-password-file" "/etc/sluice/redis/password" }}{{ end -}}
{{- if .sentinelUser }}{{ $_ := set $redis "redis-sentinel-user" .sentinelUser }}{{ end -}}
{{- if .sentinelExistingSecret }}{{ $_ := set $redis "redis-sentinel-password-file" "/etc/sluice/redis-sentinel/password" }}{{ end -}}
{{- if .tlsExistingSecret }}{{ $_ := set $redis "redis-ca" "/etc/sluice/redis-tls/ca.crt" }}{{ end -}}
{{- if .clientCertificate }}{{ $_ := set $redis "redis-cert" "/etc/sluice/redis-tls/tls.crt" }}{{ $_ := set $redis "redis-key" "/etc/sluice/redis-tls/tls.key" }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if .Values.otlp.caExistingSecret }}{{ $_ := set $own "otlp-ca" "/etc/sluice/otlp/ca.crt" }}{{ end -}}
{{- mergeOverwrite (deepCopy .Values.settings) $tls $redis $own | toYaml -}}
{{- end -}}

{{- /* The Secrets of the store and of the collector, by the folder that each is mounted at. */ -}}
{{- define "sluice.secrets" -}}
{{- $all := dict -}}
{{- with .Values.otlp.caExistingSecret }}{{ $_ := set $all "otlp" (dict "name" . "keys" (list "ca.crt")) }}{{ end -}}
{{- if eq .Values.store.type "redis" -}}
{{- with .Values.store.redis -}}
{{- if .existingSecret }}{{ $_ := set $all "redis" (dict "name" .existingSecret "keys" (list "password")) }}{{ end -}}
{{- if .sentinelExistingSecret }}{{ $_ := set $all "redis-sentinel" (dict "name" .sentinelExistingSecret "keys" (list "password")) }}{{ end -}}
{{- if .tlsExistingSecret }}{{ $_ := set $all "redis-tls" (dict "name" .tlsExistingSecret "keys" (ternary (list "ca.crt" "tls.crt" "tls.key") (list "ca.crt") .clientCertificate)) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- $all | toJson -}}
{{- end -}}

{{- /* The ports to which sluiced speaks TLS itself. */ -}}
{{- define "sluice.encryptedPorts" -}}
{{- $all := list -}}
{{- if and (eq .Values.store.type "redis") (hasPrefix "rediss" .Values.store.redis.url) }}{{ $all = .Values.networkPolicy.redisPorts }}{{ end -}}
{{- $otlp := default "" (index .Values.settings "otlp-endpoint") -}}
{{- if hasPrefix "https://" $otlp }}{{ $all = append $all (splitList ":" $otlp | last) }}{{ end -}}
{{- $all | toJson -}}
{{- end -}}

{{- /* The ConfigMap with the catalogue, and that with the descriptors; "" for none. */ -}}
{{- define "sluice.catalogue" -}}
{{- if .Values.catalogue.existingConfigMap }}{{ .Values.catalogue.existingConfigMap }}{{ else if .Values.catalogue.files }}{{ include "sluice.name" . }}-catalogue{{ end -}}
{{- end -}}

{{- define "sluice.descriptors" -}}
{{- if .Values.descriptors.existingConfigMap }}{{ .Values.descriptors.existingConfigMap }}{{ else if .Values.descriptors.files }}{{ include "sluice.name" . }}-descriptors{{ end -}}
{{- end -}}
