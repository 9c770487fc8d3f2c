{{- define "tallycast.name" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "tallycast.selector" -}}
app.kubernetes.io/name: tallycast
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tallycast.labels" -}}
{{ include "tallycast.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "tallycast.secretName" -}}
{{- .Values.secret.name | default (include "tallycast.name" .) }}
{{- end }}

{{- define "tallycast.scheme" -}}
{{- if .Values.tls.secretName }}HTTPS{{ else }}HTTP{{ end }}
{{- end }}

{{/* The seconds that a pod gets to end. Fails if the time that is set is shorter than what tallycast needs. */}}
{{- define "tallycast.graceSeconds" -}}
{{- $drain := .Values.drain }}
{{- $needed := add $drain.preStopSeconds $drain.delaySeconds $drain.streamsSeconds $drain.shutdownLimitSeconds 5 | int }}
{{- $grace := .Values.terminationGracePeriodSeconds | default $needed | int }}
{{- if lt $grace $needed }}
{{- $expected := printf "expected at least %d, the sum of the seconds in drain and 5 to exit" $needed }}
{{- fail (printf "terminationGracePeriodSeconds is %d: %s" $grace $expected) }}
{{- end }}
{{- $grace }}
{{- end }}

{{/* tallycast.toml. Options are flat, and numbers, booleans, strings and lists of strings are written in TOML as in JSON. */}}
{{- define "tallycast.toml" -}}
{{- $drain := .Values.drain }}
{{- $set := dict "port" 8001 }}
{{- $_ := set $set "drain-delay" (printf "%ds" (int $drain.delaySeconds)) }}
{{- $_ := set $set "drain" (printf "%ds" (int $drain.streamsSeconds)) }}
{{- $_ := set $set "shutdown-limit" (printf "%ds" (int $drain.shutdownLimitSeconds)) }}
{{- if .Values.tls.secretName }}
{{- $_ := set $set "tls-cert" "/etc/tallycast/tls/tls.crt" }}
{{- $_ := set $set "tls-key" "/etc/tallycast/tls/tls.key" }}
{{- end }}
{{- range $key, $value := .Values.config }}
{{- if has $key (list "port" "drain" "drain-delay" "shutdown-limit" "tls-cert" "tls-key") }}
{{- fail (printf "config.%s is set by the chart: see the values drain and tls" $key) }}
{{- end }}
{{- $text := toJson $value }}
{{- $isSecret := regexMatch "^redis-url$|^publish-key$|^token-key$|-(token|secret|password)$" $key }}
{{- if or (and $isSecret (not (regexMatch "[\"=]@" $text))) (regexMatch "://[^/@\"]*:[^/@\"]*@" $text) }}
{{- fail (printf "config.%s is a secret: expected a variable in secret.values, or a file of files.secretName" $key) }}
{{- end }}
{{- $_ := set $set $key $value }}
{{- end }}
{{- range $key, $value := $set }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end }}
