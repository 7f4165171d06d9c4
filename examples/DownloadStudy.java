import com.pixelmed.dicom.*;
import com.pixelmed.network.*;
import java.io.File;
import java.net.ServerSocket;

/**
 * Download a study with PixelMed: a storage SCP, and a C-MOVE to it.
 *
 *     java -cp '/usr/share/java/*' examples/DownloadStudy.java 127.0.0.1 11112 PACS ME 11113 1.2.3 downloads
 *
 * The PACS has to know the AE title ME at this host and port: `pacs peers add ME 127.0.0.1 11113`, then SIGHUP.
 */
public class DownloadStudy {
    private static final String STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2";

    public static void main(String[] arguments) throws Exception {
        int exitStatus = 1;
        try {
            int status = download(arguments);
            System.out.printf("status 0x%04X%n", status);
            exitStatus = status == 0 ? 0 : 1;
        } catch (Exception failure) {
            System.err.println("the download failed: " + failure.getMessage());
        }
        System.exit(exitStatus);  // the threads of the storage SCP would go on
    }

    private static int download(String[] arguments) throws Exception {
        String host = arguments[0], pacs = arguments[2], ours = arguments[3], study = arguments[5];
        int port = Integer.parseInt(arguments[1]), ourPort = Integer.parseInt(arguments[4]);
        File folder = new File(arguments[6]);
        folder.mkdirs();
        new ServerSocket(ourPort).close();  // fails if the port is taken; the storage SCP would never be ready

        StorageSOPClassSCPDispatcher storage = new StorageSOPClassSCPDispatcher(ourPort, ours, folder, new ReceivedObjectHandler() {
            public void sendReceivedObjectIndication(String file, String transferSyntax, String calling) {
                System.out.println("received " + new File(file).getName());
            }
        });
        new Thread(storage).start();
        while (!storage.isReady()) Thread.sleep(20);
        return new MoveSOPClassSCU(host, port, pacs, ours, ours, STUDY_ROOT_MOVE, keysOf(study)).getStatus();
    }

    private static AttributeList keysOf(String study) throws DicomException {
        AttributeList keys = new AttributeList();
        Attribute level = new CodeStringAttribute(TagFromName.QueryRetrieveLevel);
        level.addValue("STUDY");
        keys.put(level);
        Attribute uid = new UniqueIdentifierAttribute(TagFromName.StudyInstanceUID);
        uid.addValue(study);
        keys.put(uid);
        return keys;
    }
}
